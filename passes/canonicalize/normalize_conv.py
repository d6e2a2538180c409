"""aten.conv1d, conv2d, convolution, conv_transpose*  ->  fxpress.conv, fxpress.conv_transpose"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, pair, shape

aten = torch.ops.aten

FORWARD = (aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input)


@rewrite(*FORWARD, *TRANSPOSED, aten.convolution.default, accuracy="reassociating")
def normalize_conv(node: Node, rw: Rewriter) -> None:
    """aten.conv2d(x, w, b, stride, padding)  ->  fxpress.conv(x, w, b, stride, (before, after) padding)

    An unbatched input gets a batch dim of one. Reassociating, since PyTorch may choose another algorithm for another
    spelling of the padding.
    """
    a = arguments(node)
    x, weight = a["input"], a["weight"]
    dims = len(shape(weight)) - 2
    if dims not in (1, 2):
        rw.skip(node, f"a convolution must have one or two spatial dims, not {dims}")
        return
    unbatched = len(shape(x)) == dims + 1
    if unbatched:
        x = rw.call(aten.unsqueeze.default, x, 0, at=node)
    transposed = node.target in TRANSPOSED or bool(a.get("transposed"))
    new = (_conv_transpose if transposed else _conv)(node, rw, x, a, dims)
    if unbatched:
        new = rw.call(aten.squeeze.dims, new, [0], at=node)
    rw.replace(node, new)


def _conv(node: Node, rw: Rewriter, x: Node, a: dict[str, Any], dims: int) -> Node:
    dilation = pair(a["dilation"], dims)
    kernel = shape(a["weight"])[2:]
    return rw.call(
        fxpress.conv.default, x, a["weight"], a["bias"], None, pair(a["stride"], dims),
        padding_pairs(a["padding"], kernel, dilation), dilation, a["groups"], "none", False, at=node,
    )  # fmt: skip


def padding_pairs(padding: str | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """(before, after) for each dim; PyTorch's "same" puts the odd zero after."""
    if padding == "valid":
        return [0] * (2 * len(kernel))
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [p for total in totals for p in (total // 2, total - total // 2)]
    return [p for each in pair(padding, len(kernel)) for p in (each, each)]  # type: ignore[arg-type]


def _conv_transpose(node: Node, rw: Rewriter, x: Node, a: dict[str, Any], dims: int) -> Node:
    stride, padding, output_padding, dilation = (
        pair(a[name], dims) for name in ("stride", "padding", "output_padding", "dilation")
    )
    return rw.call(
        fxpress.conv_transpose.default, x, a["weight"], a["bias"], stride, padding, output_padding, dilation,
        a["groups"], "none", False, at=node,
    )  # fmt: skip
