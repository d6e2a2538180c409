"""Index maps of what goes along a dim: sums and means, softmax, running sums, the best and the order of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from .map_types import IndexMap
from .ties import Ties, rank

aten = torch.ops.aten
Arguments = Mapping[str, Any]


def reduced_dims(x: Node, a: Arguments) -> set[int]:
    """The dims that a reduction is over."""
    dims = a.get("dim")
    if dims is None or dims == []:
        return set(range(rank(x)))
    return {dim % rank(x) for dim in ([dims] if isinstance(dims, int) else dims)} if rank(x) else set()


def _reduce(m: Ties, node: Node, a: Arguments) -> None:
    """Sums, means and the like are over the indices that are left."""
    x = a["self"]
    gone = reduced_dims(x, a)
    if a.get("keepdim"):
        left = {dim: dim for dim in range(rank(x)) if dim not in gone}
    else:
        left = {dim: new for new, dim in enumerate(d for d in range(rank(x)) if d not in gone)}
    for dim, new in left.items():
        m.same(m.axis(x, dim), m.axis(node, new))


def _along(reason: str) -> Any:
    """The result is like x, and what is computed along one dim needs all of it."""

    def ties(m: Ties, node: Node, a: Arguments) -> None:
        m.broadcast(a["self"], node)
        if rank(node):
            m.hold(m.axis(node, a["dim"]), reason)

    return ties


def _reduce_whole(m: Ties, node: Node, a: Arguments) -> None:
    """As `_reduce`, where the numbers of indices, or how many there are, make the result."""
    for dim in reduced_dims(a["self"], a):
        m.hold(m.axis(a["self"], dim), "indices that are compared with each other")
    _reduce(m, node, a)


def _choose_along(m: Ties, node: Node, a: Arguments) -> None:
    """Values and their indices along one dim: the best, the best few, or all in order."""
    x, dim = a["self"], a["dim"] % max(rank(a["self"]), 1)
    for part, result in enumerate(node.meta["val"]):
        kept = result.dim() == rank(x)
        for other in range(rank(x)):
            if other != dim:
                m.same(m.axis(x, other), m.axis(node, other - (other > dim and not kept), part))
            else:
                m.hold(m.axis(x, dim), "indices that are compared with each other")
                if kept:
                    m.hold(m.axis(node, dim, part), "indices that are compared with each other")


REDUCTIONS = (
    aten.sum.dim_IntList,
    aten.sum.default,
    aten.mean.dim,
    aten.mean.default,
    aten.amax.default,
    aten.amin.default,
    aten.var.correction,
    aten.linalg_vector_norm.default,
    aten.logsumexp.default,
)

ALONG: dict[Any, IndexMap] = {
    aten.softmax.int: IndexMap(_along("a softmax is over all of it")),
    aten.log_softmax.int: IndexMap(_along("a softmax is over all of it")),
    aten.cumsum.default: IndexMap(_along("sums count up along it")),
    **{op: IndexMap(_reduce_whole) for op in (aten.argmax.default, aten.argmin.default, aten.prod.dim_int)},
    **{op: IndexMap(_choose_along) for op in (aten.max.dim, aten.min.dim, aten.sort.default, aten.topk.default)},
    **{op: IndexMap(_reduce) for op in REDUCTIONS},
}
