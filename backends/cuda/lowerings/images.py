"""Convolutions and pools: images with channels last, as products of matrices or windows of each channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ...tvm.graph_lowering import OpRule
from ...tvm.lowerings.images import (
    channels_last_output,
    dense_channels,
    four_dims,
    image,
    pair,
    pixel_strides,
    restore_order,
)
from ...tvm.views import View
from ..kernels.epilogue import Epilogue
from ..kernels.gemm import Gemm
from ..kernels.reduce import Reduce
from ..kernels.sources import ImageSource
from ..kernels.window import Window
from ..lowering import CudaLowering, aligned_rows
from ..target import CudaTarget
from .normalization import FLOATS, check
from .products import chunk_of, epilogue_of, lies_evenly, padded_rows, product_dtype, rows_at
from .rows import rows_along, vector_of

fxpress = torch.ops.fxpress

_TOGETHER = 4  # channels that are copied at once: images with an odd number of channels get some of zeros


def conv(node: Node, cx: CudaLowering) -> None:
    a = arguments(node)
    tensor = cx.constant_tensor(a["weight"])
    assert tensor is not None
    weight = four_dims(tensor).to(a["x"].meta["val"].dtype).permute(0, 2, 3, 1)  # [oc, *kernel, ic / groups]
    x = image(dense_channels(cx, cx.view(a["x"]), a["channels_last"]))
    y = channels_last_output(cx, node, a["channels_last"])
    target = y if lies_evenly(y) else cx.temporary(y.shape, y.dtype)
    residual = None if a["residual"] is None else dense_channels(cx, cx.view(a["residual"]), a["channels_last"])
    epilogue, rest = epilogue_of(cx, a["bias"], residual, a["activation"], y.dtype)
    before = a["padding"][::2]
    if a["groups"] > 1:
        source = _source(x, target, weight.shape[1:3], a["stride"], a["dilation"], before)
        vector = _vector(x, target, *rest[epilogue.bias is not None :])
        kernel = Window("depthwise", x.shape[0], source, x.dtype, rows_at(target), epilogue, vector)
        cx.call(kernel, x, cx.constant(weight.squeeze(3).permute(1, 2, 0)), *rest, target)
    else:
        x, weight = _whole_chunks(cx, x, weight)
        source = _source(x, target, weight.shape[1:3], a["stride"], a["dilation"], before)
        cx.call(*_product(cx, x, source, weight.flatten(1), epilogue, target, rest))
    if target is not y:
        cx.copy(target, y, "copy: the pixels lie in pieces of another value")
    restore_order(cx, node, y, a["channels_last"])


def _product(
    cx: CudaLowering, x: View, source: ImageSource, weight: torch.Tensor, epilogue: Epilogue, y: View, rest: list[View]
) -> tuple[Any, ...]:
    """The kernel of a convolution with the weight [oc, k], and its operands."""
    dtype, (n, k) = product_dtype(x.dtype, cx.target), weight.shape
    m, factor = math.prod(y.shape[:-1]), cx.constant(padded_rows(weight, dtype))
    kernel = Gemm(
        m, n, k, dtype, source, rows_at(factor), rows_at(y), epilogue,
        Gemm.blocking_for(m, n, 1, dtype, cx.target.oldest),
        a_chunk=math.gcd(chunk_of(x, dtype), source.channels), b_chunk=chunk_of(factor, dtype),
    )  # fmt: skip
    return (kernel, x, factor, *rest, y)


def _whole_chunks(cx: CudaLowering, x: View, weight: torch.Tensor) -> tuple[View, torch.Tensor]:
    """An image and a weight with so many channels that some can be copied at once: zeros are added."""
    missing = -x.shape[-1] % _TOGETHER
    if not missing:
        return x, weight
    wide = cx.temporary((*x.shape[:-1], x.shape[-1] + missing), x.dtype)
    cx.fill(wide, 0, "channels of zeros")
    cx.copy(x, wide.slice(3, 0, x.shape[-1]), "copy: to channels that can be read together")
    return wide, torch.nn.functional.pad(weight, (0, missing))


def pool(op: str) -> Callable[[Node, CudaLowering], None]:
    """A pool of each channel: "max" or "mean"."""

    def lower(node: Node, cx: CudaLowering) -> None:
        a = arguments(node)
        x = image(dense_channels(cx, cx.view(a["x"]), a["channels_last"]))
        y = channels_last_output(cx, node, a["channels_last"])
        target = y if lies_evenly(y) else cx.temporary(y.shape, y.dtype)
        source = _source(x, target, pair(a["kernel"]), a["stride"], a.get("dilation") or [1, 1], a["padding"])
        divisor = a.get("divisor") or (math.prod(a["kernel"]) if a.get("count_include_pad") else 0)
        kernel = Window(
            op, x.shape[0], source, x.dtype, rows_at(target), Epilogue(y.dtype), _vector(x, target), divisor
        )
        cx.call(kernel, x, target)
        if target is not y:
            cx.copy(target, y, "copy: the pixels lie in pieces of another value")
        restore_order(cx, node, y, a["channels_last"])

    return lower


def mean_of_image(node: Node, cx: CudaLowering) -> None:
    """An adaptive average pool to one pixel: the mean of each channel."""
    a = arguments(node)
    x, out = cx.view(a["x"]), cx.output(node)
    rank = len(x.shape)
    dims = list(range(1, rank - 1)) if a["channels_last"] else list(range(2, rank))
    source = rows_along(x, dims)
    if source is None:
        x = cx.contiguous(x, "copy: one stride must walk all pixels")
        source = rows_along(x, dims)
    assert source is not None
    strides = tuple(stride for d, stride in enumerate(out.strides) if d not in dims)
    cx.call(Reduce("mean", source, strides, out.dtype, vector_of((source, x))), x, out)


def _source(
    x: View, y: View, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], before: Sequence[int]
) -> ImageSource:
    _, height, width, channels = x.shape
    _, out_height, out_width, _ = image(y).shape
    padding = (0, before[0]) if len(before) == 1 else (before[0], before[1])
    steps = pair(stride), pair(dilation[: len(stride)])
    size, out = (height, width), (out_height, out_width)
    return ImageSource(pixel_strides(x), size, channels, out, pair(kernel), *steps, padding)


def _vector(*views: View) -> int:
    """How many channels of all images can be read and written at once."""
    return math.gcd(views[0].shape[-1], *(aligned_rows(view, 1) for view in views))


def check_conv(node: Node, target: CudaTarget) -> str | None:
    a = arguments(node)
    x, weight = a["x"].meta["val"], a["weight"].meta["val"]
    if a["weight"].op != "get_attr":
        return "its weight must be a constant"
    if x.dtype not in FLOATS or weight.dtype not in FLOATS:
        return f"its operands must be float32, float16 or bfloat16, not {x.dtype} and {weight.dtype}"
    channels = x.shape[-1 if a["channels_last"] else 1]
    if a["groups"] > 1 and not a["groups"] == channels == weight.shape[0]:
        return f"its groups must be 1, or as many as it has inputs and outputs, not {a['groups']}"
    return None


def check_pool(node: Node, target: CudaTarget) -> str | None:
    a = arguments(node)
    if len(a["kernel"]) > 2:
        return "pools in three dimensions have no kernel"
    if a.get("ceil_mode") and "count_include_pad" in a:
        return "average pools with ceil_mode have no kernel"
    return check(node, target)


def check_mean(node: Node, target: CudaTarget) -> str | None:
    size = arguments(node)["size"]
    return check(node, target) if all(n == 1 for n in size) else f"its size must be 1, not {size}"


RULES: dict[Any, OpRule] = {
    fxpress.conv.default: OpRule(conv, check_conv),
    fxpress.narrow_conv.default: OpRule(conv, check_conv),
    fxpress.max_pool.default: OpRule(pool("max"), check_pool),
    fxpress.avg_pool.default: OpRule(pool("mean"), check_pool),
    fxpress.adaptive_avg_pool.default: OpRule(mean_of_image, check_mean),
}
