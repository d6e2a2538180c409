"""batch_norm(conv(x))  ->  conv(x) with other constants; other batch norms  ->  x * scale + shift"""

from __future__ import annotations

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_call, shape
from .channels import CONVOLUTIONS, channel_dim, is_plain, with_affine

aten = torch.ops.aten


@rewrite(aten.batch_norm.default, accuracy="reassociating", establishes=("batch-norm-folded",))
def fold_batch_norm(node: Node, rw: Rewriter) -> None:
    """batch_norm(conv(x, w, b))  ->  conv(x, w * scale, b * scale + shift); else  ->  x * scale + shift

    Producers are convolutions, transposed convolutions and linear layers whose only user the batch norm is.
    """
    a = arguments(node)
    x: Node = a["input"]
    affine = _affine(rw, a["weight"], a["bias"], a["running_mean"], a["running_var"], a["eps"])
    if a["training"] or affine is None:
        rw.skip(node, "its statistics or weights are not constants")
        return
    scale, shift = affine
    rank = len(shape(x))
    if is_plain(x) and len(x.users) == 1 and channel_dim(x) == 1:
        rw.replace(node, with_affine(x, rw, node, scale, shift))
        return
    if is_call(x, *CONVOLUTIONS):
        rw.skip(node, "the convolution's result is used elsewhere too, or it has an epilogue")
    dtype = x.meta["val"].dtype
    sizes = (-1, *[1] * (rank - 2))
    name = a["running_mean"].target
    new = rw.call(aten.mul.Tensor, x, rw.constant(f"{name}_scale", scale.to(dtype).reshape(sizes)), at=node)
    new = rw.call(aten.add.Tensor, new, rw.constant(f"{name}_shift", shift.to(dtype).reshape(sizes)), at=node)
    rw.replace(node, new)


def _affine(
    rw: Rewriter, weight: Node | None, bias: Node | None, mean: Node | None, variance: Node | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Scale and shift of an evaluating batch norm in float64."""
    values = [rw.value(each) for each in (weight, bias, mean, variance)]
    if any(node is not None and value is None for node, value in zip((weight, bias), values, strict=False)):
        return None
    w, b, m, v = (None if value is None else value.double() for value in values)
    if m is None or v is None:
        return None
    scale = (v + eps).rsqrt()
    scale = scale if w is None else scale * w
    shift = -m * scale
    return scale, shift if b is None else shift + b
