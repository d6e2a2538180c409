"""Layers whose weights are bfloat16 or float16.

Where the machine multiplies bfloat16 and x has that dtype too, a kernel does so. Elsewhere everything is multiplied as
float32: a linear layer unpacks its weights in registers, a convolution when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ....cpu import CpuTarget
from ..kernels.bfloat16_conv import Bfloat16Conv
from ..kernels.conv import DirectConv
from ..kernels.conv_shape import ConvShape, rows_as_pixels
from ..kernels.depthwise import DepthwiseConv
from ..kernels.linear_shape import LinearShape, Rows
from ..kernels.pointwise import pointwise_kernel
from ..kernels.pointwise_program import Instruction, Stream
from ..kernels.stored_weights import StoredWeight
from ..kernels.weight_only import stored_linear
from ..lowering import Lowering, OpRule, dtype_name
from ..views import View
from .convolution import conv_shape
from .images import channels_last_input, channels_last_output, dense_channels, four_dims, restore_order
from .low_precision import constant_of, layer, no_elements, not_constant

fxpress = torch.ops.fxpress

_NARROW = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, *_NARROW)


def narrow_linear(node: Node, cx: Lowering) -> None:
    a = arguments(node)
    weight, source = constant_of(cx, a["weight"]), cx.view(a["x"])
    n, k = weight.shape
    sample = rows_as_pixels(LinearShape.dense(1, n, k), Rows(k, k))
    if source.dtype == "bfloat16" and Bfloat16Conv.suits(sample, cx.target):

        def dot(shape: LinearShape, source: View, others: Sequence[View]) -> None:
            bias = [] if shape.bias else [cx.constant(torch.zeros(n))]
            _call_bfloat16(cx, rows_as_pixels(shape, shape.x), weight, source, [*bias, *others])

        layer(node, cx, source, n, dot)
        return
    form = StoredWeight(dtype=dtype_name(weight.dtype), k=k, group=k)

    def unpack(shape: LinearShape, source: View, others: Sequence[View]) -> None:
        kernel = stored_linear(shape, form, cx.target)
        cx.call(kernel, source, *(cx.constant(part) for part in kernel.pack(weight)), *others)

    residual = None if a["residual"] is None else _float32(cx, cx.view(a["residual"]))
    if a["dtype"] == torch.float32:
        layer(node, cx, _float32(cx, source), n, unpack, residual=residual)
        return
    computed = cx.temporary(tuple(node.meta["val"].shape))
    layer(node, cx, _float32(cx, source), n, unpack, computed, residual)
    _cast(cx, computed, cx.output(node, strided=True))


def narrow_conv(node: Node, cx: Lowering) -> None:
    a = arguments(node)
    weight, channels_last, padding = constant_of(cx, a["weight"]), a["channels_last"], a["padding"]
    strides = a["stride"], padding, a["dilation"], a["groups"], a["activation"]
    bias = cx.constant(torch.zeros(weight.shape[0])) if a["bias"] is None else cx.contiguous(a["bias"])
    added = None if a["residual"] is None else dense_channels(cx, cx.view(a["residual"]), channels_last)
    target = channels_last_output(cx, node, channels_last)
    if a["x"].meta["val"].dtype == torch.bfloat16 and cx.target.has("bf16"):
        source = channels_last_input(cx, a["x"], padding, channels_last)
        shape = conv_shape(source, target, added, weight, *strides)
        if Bfloat16Conv.suits(shape, cx.target) and not _depthwise(shape):
            others = [bias, *([] if added is None else [added]), target]
            _call_bfloat16(cx, shape, weight, source, others)
            restore_order(cx, node, target, channels_last)
            return
    source, computed = _float32_image(cx, a["x"], padding, channels_last), target
    if target.dtype != "float32":
        computed = cx.temporary(target.shape)
    added = None if added is None else _float32(cx, added)
    shape = conv_shape(source, computed, added, weight, *strides)
    kernel = (DepthwiseConv if _depthwise(shape) else DirectConv).choose(shape, cx.target)
    packed = kernel.pack(four_dims(weight.float())).to(weight.dtype)
    expanded = cx.derived(tuple(packed.shape))
    stored = cx.constant(packed)
    cx.prepare(_cast_kernel(cx, stored, expanded), stored, expanded)
    cx.call(kernel, source, expanded, bias, *([] if added is None else [added]), computed)
    if computed is not target:
        _cast(cx, computed, target)
    restore_order(cx, node, target, channels_last)


def _call_bfloat16(cx: Lowering, shape: ConvShape, weight: torch.Tensor, source: View, others: Sequence[View]) -> None:
    """Call the bfloat16 kernel; others are bias, residual where there is one, y."""
    residual = others[1].dtype if shape.residual_strides is not None else "float32"
    kernel = Bfloat16Conv.choose(shape, others[-1].dtype, residual, cx.target)
    image = weight.reshape(*weight.shape, 1, 1) if weight.dim() == 2 else four_dims(weight)
    cx.call(kernel, source, cx.constant(kernel.pack(image)), *others)


def _depthwise(shape: ConvShape) -> bool:
    return shape.groups == shape.ic == shape.oc


def _float32_image(cx: Lowering, x: Node, padding: Sequence[int], channels_last: bool) -> View:
    """The value of `x` as float32 with channels last and a border of zeros."""
    view = cx.view(x)
    if view.dtype == "float32":
        return channels_last_input(cx, x, padding, channels_last)
    rank = len(view.shape)
    wide = _float32(cx, view if channels_last else view.permute([0, *range(2, rank), 1]))
    return cx.halo_copy(wide, padding) if any(padding) else wide


def _float32(cx: Lowering, view: View) -> View:
    """A value as float32, dense unless it is that already."""
    if view.dtype == "float32":
        return view
    wide = cx.temporary(view.shape)
    _cast(cx, view, wide)
    return wide


def _cast(cx: Lowering, source: View, destination: View) -> None:
    cx.call(_cast_kernel(cx, source, destination), source, destination, note=f"to {destination.dtype}")


def _cast_kernel(cx: Lowering, source: View, destination: View) -> Any:
    program = Instruction("input", (), source.dtype, (0,)), Instruction("cast", (0,), destination.dtype)
    streams = [Stream(view.dtype, view.strides) for view in (source, destination)]
    return pointwise_kernel(source.shape, streams[:1], streams[1:], program, (1,), cx.target)


def _check(node: Node, target: CpuTarget) -> str | None:
    a = arguments(node)
    reason = not_constant(a, {"weight": None}) or no_elements(node, a)
    if reason is not None:
        return reason
    weight = a["weight"].meta["val"].dtype
    allowed = {
        "weight": _NARROW,
        "x": (torch.float32, weight),
        "bias": (torch.float32,),
        "residual": (torch.float32, a["dtype"]),
    }
    for name, dtypes in allowed.items():
        if a[name] is not None and a[name].meta["val"].dtype not in dtypes:
            return f"its {name} must be {' or '.join(map(str, dict.fromkeys(dtypes)))}, not {a[name].meta['val'].dtype}"
    if a["dtype"] not in _FLOATS:
        return f"its result must be {' or '.join(map(str, _FLOATS))}, not {a['dtype']}"
    return None


RULES: dict[Any, OpRule] = {
    fxpress.narrow_linear.default: OpRule(narrow_linear, _check),
    fxpress.narrow_conv.default: OpRule(narrow_conv, _check),
}
