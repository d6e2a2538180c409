"""Index maps of what is looked up, or put somewhere, by numbers: index, index_select, gather, scatter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from .map_types import IndexMap
from .ties import Ties, rank

aten = torch.ops.aten
Arguments = Mapping[str, Any]
LOOKED_UP = "looked up by number"
NUMBERS = "numbers of what is looked up"


def _index(m: Ties, node: Node, a: Arguments) -> None:
    x, indices = a["self"], a["indices"]
    places = [i for i, index in enumerate(indices) if index is not None]
    kinds = {indices[i].meta["val"].dtype for i in places}
    if places != list(range(places[0], places[-1] + 1)) or torch.bool in kinds:
        m.hold_value(x, "indices that are apart, or a mask")
        return m.hold_value(node, "indices that are apart, or a mask")
    for i in places:
        m.hold(m.axis(x, i), LOOKED_UP)
        m.hold_value(indices[i], NUMBERS)
    span = max(rank(indices[i]) for i in places)
    for dim in range(places[0], places[0] + span):
        m.hold(m.axis(node, dim), NUMBERS)
    for dim in range(rank(x)):
        if dim not in places:
            m.same(m.axis(x, dim), m.axis(node, dim if dim < places[0] else dim - len(places) + span))


def _index_select(m: Ties, node: Node, a: Arguments) -> None:
    x, dim = a["self"], a["dim"] % max(rank(node), 1)
    m.hold_value(a["index"], NUMBERS)
    for other in range(rank(node)):
        if other != dim:
            m.same(m.axis(x, other), m.axis(node, other))
            continue
        m.hold(m.axis(x, dim), LOOKED_UP)
        m.hold(m.axis(node, dim), NUMBERS)


def _gather(m: Ties, node: Node, a: Arguments) -> None:
    _along_numbers(m, (a["self"], a["index"], node), a["dim"])


def _scatter(m: Ties, node: Node, a: Arguments) -> None:
    m.broadcast(a["self"], node)
    _along_numbers(m, (a["self"], a["index"], *([a["src"]] if "src" in a else [])), a["dim"])


def _along_numbers(m: Ties, values: tuple[Node, ...], dim: int) -> None:
    """Along one dim numbers say what goes where; along the others index i of one goes with i of the others."""
    dims = rank(values[0])
    for own in range(dims):
        axes = [m.axis(value, own) for value in values]
        if own == dim % dims:
            for axis in axes:
                m.hold(axis, NUMBERS)
        elif len({m.sizes[axis] for axis in axes}) > 1:  # numbers for the first indices alone
            for axis in axes:
                m.hold(axis, "only the first indices are looked up")
        else:
            for axis in axes[1:]:
                m.same(axes[0], axis)


LOOK_UPS: dict[Any, IndexMap] = {
    aten.index.Tensor: IndexMap(_index),
    aten.index_select.default: IndexMap(_index_select),
    aten.gather.default: IndexMap(_gather),
    aten.scatter.src: IndexMap(_scatter),
    aten.scatter.value: IndexMap(_scatter),
    aten.scatter_add.default: IndexMap(_scatter),
}
