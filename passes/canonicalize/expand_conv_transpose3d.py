"""aten.conv_transpose3d  ->  a sum of conv_transpose2d over the depth of the kernel"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_constant, is_static, pair, shape

aten = torch.ops.aten


@rewrite(aten.conv_transpose3d.input, accuracy="reassociating")
def expand_conv_transpose3d(node: Node, rw: Rewriter) -> None:
    """conv_transpose3d(x, w)  ->  the sum over d of conv_transpose2d(frames of x, w[:, :, d]), each moved down by d

    The frames lie in the batch; those of the result that lie between two of them are zeros until the sum.
    """
    a = arguments(node)
    x, weight = a["input"], a["weight"]
    if not is_constant(weight) or not is_static(node):
        return
    unbatched = len(shape(x)) == 4
    if unbatched:
        x = rw.call(aten.unsqueeze.default, x, 0, at=node)
    stride, padding, dilation, more = (pair(a[k], 3) for k in ("stride", "padding", "dilation", "output_padding"))
    n, ic, depth, *size = shape(x)
    out_depth = shape(node)[-3]
    frames = rw.call(aten.permute.default, x, [0, 2, 1, 3, 4], at=node)
    images = rw.call(aten.reshape.default, frames, [n * depth, ic, *size], at=node)
    tensor = rw.program.constant(weight)
    terms: list[Node] = []
    for d in range(tensor.shape[2]):
        part = rw.constant(f"{weight.target}_{d}", tensor[:, :, d].contiguous())
        options = stride[1:], padding[1:], more[1:], a["groups"], dilation[1:]
        image = rw.call(aten.conv_transpose2d.input, images, part, None, *options, at=node)
        apart = _apart(image, n, depth, stride[0], node, rw)
        before = d * dilation[0] - padding[0]
        after = out_depth - before - shape(apart)[1]
        terms.append(rw.call(aten.constant_pad_nd.default, apart, [0] * 6 + [before, after], at=node))
    total = terms[0]
    for term in terms[1:]:
        total = rw.call(aten.add.Tensor, total, term, at=node)
    if a["bias"] is not None:
        total = rw.call(aten.add.Tensor, total, _column(a["bias"], node, rw), at=node)
    result = rw.call(aten.permute.default, total, [0, 2, 1, 3, 4], at=node)
    rw.replace(node, rw.call(aten.squeeze.dims, result, [0], at=node) if unbatched else result)


def _apart(images: Node, n: int, depth: int, stride: int, at: Node, rw: Rewriter) -> Node:
    """[n, frames, ...] with stride - 1 frames of zeros between two frames."""
    image: Any = shape(images)[1:]
    frames = rw.call(aten.reshape.default, images, [n, depth, 1, *image], at=at)
    spread = rw.call(aten.constant_pad_nd.default, frames, [0] * 7 + [stride - 1], at=at)
    flat = rw.call(aten.reshape.default, spread, [n, depth * stride, *image], at=at)
    return rw.call(aten.slice.Tensor, flat, 1, 0, (depth - 1) * stride + 1, at=at)


def _column(bias: Node, at: Node, rw: Rewriter) -> Node:
    return rw.call(aten.reshape.default, bias, [shape(bias)[0], 1, 1], at=at)
