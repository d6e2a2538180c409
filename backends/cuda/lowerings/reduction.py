"""Reductions over any dimensions of a strided view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ...tvm.graph_lowering import OpRule
from ...tvm.lowerings.view_ops import argument, reduced_dims
from ...tvm.views import View
from ..kernels.reduce import Reduce
from ..lowering import CudaLowering
from .normalization import check
from .rows import rows_along, vector_of

aten = torch.ops.aten


def reduction(op: str, *, has_dim: bool = True) -> Callable[[Node, CudaLowering], None]:
    """A reduction whose second argument is the dims (all of them when absent)."""

    def lower(node: Node, cx: CudaLowering) -> None:
        x, out = cx.view(node.args[0]), cx.output(node)
        dims = argument(node, 1, "dim") if has_dim else None
        _reduce(cx, op, x, reduced_dims(dims, len(x.shape)), out)

    return lower


def _reduce(cx: CudaLowering, op: str, x: View, dims: tuple[int, ...], out: View) -> None:
    if not x.shape:
        x, dims = x.expand((1,)), (0,)
    source = rows_along(x, dims)
    if source is None:
        x = cx.contiguous(x, "copy: one stride must walk the dimensions that are reduced")
        source = rows_along(x, dims)
    if source is None:  # dimensions between others: brought together
        kept = [d for d in range(len(x.shape)) if d not in dims]
        moved = x.permute([*kept, *dims])
        x = cx.temporary(moved.shape, moved.dtype)
        cx.copy(moved, x, "copy: the dimensions that are reduced must lie together")
        dims = tuple(range(len(kept), len(x.shape)))
        source = rows_along(x, dims)
    assert source is not None
    strides = out.strides
    if len(out.shape) == len(x.shape):  # keepdim
        strides = tuple(s for d, s in enumerate(out.strides) if d not in dims)
    cx.call(Reduce(op, source, strides, out.dtype, vector_of((source, x))), x, out)


RULES: dict[Any, OpRule] = {
    aten.sum.default: OpRule(reduction("sum", has_dim=False), check),
    aten.sum.dim_IntList: OpRule(reduction("sum"), check),
    aten.mean.default: OpRule(reduction("mean", has_dim=False), check),
    aten.mean.dim: OpRule(reduction("mean"), check),
    aten.prod.default: OpRule(reduction("prod", has_dim=False), check),
    aten.prod.dim_int: OpRule(reduction("prod"), check),
    aten.amax.default: OpRule(reduction("max"), check),
    aten.amin.default: OpRule(reduction("min"), check),
    aten.max.default: OpRule(reduction("max", has_dim=False), check),
    aten.min.default: OpRule(reduction("min", has_dim=False), check),
}
