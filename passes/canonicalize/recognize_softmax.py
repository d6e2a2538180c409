"""softmax written out  ->  aten.softmax"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import shape
from ..pattern import call, either, match

aten = torch.ops.aten

_MAXIMUM = either(
    call(aten.amax.default, "x", "dims", True), call(operator.getitem, call(aten.max.dim, "x", "dims", True), 0)
)
_EXPONENTIAL = call(aten.exp.default, call(aten.sub.Tensor, "x", _MAXIMUM))
_SUM = call(aten.sum.dim_IntList, _EXPONENTIAL, "summed", True)
_SOFTMAX = either(
    call(aten.div.Tensor, _EXPONENTIAL, _SUM),
    call(aten.mul.Tensor, _EXPONENTIAL, call(aten.reciprocal.default, _SUM)),
)


@rewrite(aten.div.Tensor, aten.mul.Tensor, accuracy="reassociating")
def recognize_softmax(node: Node, rw: Rewriter) -> None:
    """exp(x - max(x)) / sum(exp(x - max(x)))  ->  softmax(x)

    Without the maximum it is left alone: then it overflows where softmax does not.
    """
    found = match(_SOFTMAX, node)
    rank = len(shape(node))
    if found is None or not isinstance(found["x"], Node) or rank == 0:
        return
    dims, summed = (_dims(found[name], rank) for name in ("dims", "summed"))
    if dims == summed and len(dims) == 1:
        rw.replace(node, rw.call(aten.softmax.int, found["x"], dims[0], at=node))


def _dims(value: int | Sequence[int], rank: int) -> list[int]:
    """One dim or several, counted from the front."""
    return [d % rank for d in (value if isinstance(value, list | tuple) else (value,))]
