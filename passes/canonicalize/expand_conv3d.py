"""aten.conv3d  ->  a linear layer of patches, or a sum of conv2d over the depth of the kernel"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_constant, is_static, pair, shape

aten = torch.ops.aten


@rewrite(aten.conv3d.default, aten.conv3d.padding, aten.convolution.default, accuracy="reassociating")
def expand_conv3d(node: Node, rw: Rewriter) -> None:
    """conv3d(x, w)  ->  linear(patches of x, w), or the sum over d of conv2d(x[:, :, d::stride], w[:, :, d])

    The first where the patches neither overlap nor leave gaps, as video transformers embed theirs. Otherwise each
    slice of the kernel is a 2-D convolution of the frames it meets, which become the batch.
    """
    a = arguments(node)
    x, weight = a["input"], a["weight"]
    if len(shape(weight)) != 5 or a.get("transposed") or not is_constant(weight) or not is_static(node):
        return
    stride, dilation = pair(a["stride"], 3), pair(a["dilation"], 3)
    padding = paddings(a["padding"], shape(weight)[2:], dilation)
    batched = x if len(shape(x)) == 5 else rw.call(aten.unsqueeze.default, x, 0, at=node)
    if any(map(any, padding)):
        batched = rw.call(aten.constant_pad_nd.default, batched, [p for pads in padding[::-1] for p in pads], at=node)
    kernel = list(shape(weight)[2:])
    if (
        kernel == stride
        and all(n % k == 0 for n, k in zip(shape(batched)[2:], kernel, strict=True))
        and a["groups"] == 1
    ):
        result = _patches(node, rw, batched, a)
    else:
        result = _frames(node, rw, batched, a, stride, dilation)
    rw.replace(node, result if len(shape(x)) == 5 else rw.call(aten.squeeze.dims, result, [0], at=node))


def paddings(padding: Any, kernel: tuple[int, ...], dilation: list[int]) -> list[tuple[int, int]]:
    """(before, after) for each dim; PyTorch's "same" puts the odd zero after."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in pair(padding, len(kernel))]


def _patches(node: Node, rw: Rewriter, x: Node, a: dict[str, Any]) -> Node:
    """Every patch is one row of a linear layer."""
    weight = a["weight"]
    oc, ic, *kernel = shape(weight)
    n, _, *sizes = shape(x)
    counts = [size // k for size, k in zip(sizes, kernel, strict=True)]
    cut = rw.call(
        aten.reshape.default, x, [n, ic, *(size for each in zip(counts, kernel, strict=True) for size in each)], at=node
    )
    rows = rw.call(aten.permute.default, cut, [0, 2, 4, 6, 1, 3, 5, 7], at=node)
    flat = rw.call(aten.reshape.default, rows, [n, prod(counts), ic * prod(kernel)], at=node)
    matrix = rw.constant(f"{weight.target}_matrix", rw.program.constant(weight).reshape(oc, -1))
    product = rw.call(aten.linear.default, flat, matrix, a["bias"], at=node)
    channels = rw.call(aten.permute.default, product, [0, 2, 1], at=node)
    return rw.call(aten.reshape.default, channels, [n, oc, *counts], at=node)


def _frames(node: Node, rw: Rewriter, x: Node, a: dict[str, Any], stride: list[int], dilation: list[int]) -> Node:
    """One 2-D convolution for each depth of the kernel; the frames lie in the batch."""
    tensor = rw.program.constant(a["weight"])
    n, ic, _, *size = shape(x)
    result = node.meta["val"]
    oc, depth = tensor.shape[0], result.shape[-3]
    frames_first = rw.call(aten.permute.default, x, [0, 2, 1, 3, 4], at=node)
    total: Node | None = None
    for d in range(tensor.shape[2]):
        start = d * dilation[0]
        end = start + (depth - 1) * stride[0] + 1
        frames = rw.call(aten.slice.Tensor, frames_first, 1, start, end, stride[0], at=node)
        images = rw.call(aten.reshape.default, frames, [n * depth, ic, *size], at=node)
        weight = rw.constant(f"{a['weight'].target}_{d}", tensor[:, :, d].contiguous())
        bias = a["bias"] if d == 0 else None
        term = rw.call(
            aten.conv2d.default, images, weight, bias, stride[1:], [0, 0], dilation[1:], a["groups"], at=node
        )
        total = term if total is None else rw.call(aten.add.Tensor, total, term, at=node)
    assert total is not None
    by_frame = rw.call(aten.reshape.default, total, [n, depth, oc, *result.shape[-2:]], at=node)
    return rw.call(aten.permute.default, by_frame, [0, 2, 1, 3, 4], at=node)
