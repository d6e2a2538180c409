"""The table of index maps: for each op, which indices of its operands and results go together.

A map states ties through a `Ties`; `literals` gives the arguments that are numbers of indices anew, when some are gone.
An op without an entry keeps everything that it touches whole.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from ..match import arguments
from .layer_maps import LAYERS
from .look_up_maps import LOOK_UPS
from .map_types import IndexMap, Kept
from .recurrent_maps import RECURRENT
from .reduction_maps import ALONG
from .ties import Ties
from .view_maps import VIEWS

aten = torch.ops.aten

TABLE: dict[Any, IndexMap] = {**LAYERS, **RECURRENT, **VIEWS, **LOOK_UPS, **ALONG}

POINTWISE_TOO = frozenset(
    {
        *(aten._to_copy.default, aten.clone.default, aten.hardswish.default, aten.log_sigmoid.default),
        *(aten.full_like.default, aten.zeros_like.default, aten.ones_like.default, aten.rsub.Tensor),
        *(aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.where.ScalarOther, aten.where.ScalarSelf),
    }
)
"""Ops without PyTorch's tag."""


def _pointwise(m: Ties, node: Node, a: Mapping[str, Any]) -> None:
    for operand in node.all_input_nodes:
        m.broadcast(operand, node)


POINTWISE = IndexMap(_pointwise)


def map_of(node: Node) -> IndexMap | None:
    """The index map of a node's op; None where there is none."""
    found = TABLE.get(node.target)
    if found is not None:
        return found
    is_pointwise = node.target in POINTWISE_TOO or torch.Tag.pointwise in getattr(node.target, "tags", ())
    return POINTWISE if is_pointwise and isinstance(node.meta.get("val"), torch.Tensor) else None


def state_ties(m: Ties, node: Node) -> None:
    """Let the map of a node's op state its ties; hold everything that the node touches where it has none."""
    m.node = node
    if node.op in ("placeholder", "get_attr", "output"):
        return
    if node.target is operator.getitem:
        source, part = node.args
        for axis in m.axes(node):
            m.same(m.axis(source, axis.dim, part), axis)
        return
    found = map_of(node)
    if found is None:
        for value in (*node.all_input_nodes, node):
            m.hold_value(value, f"{node.target} has no index map")
        return
    found.ties(m, node, arguments(node))


def literals_of(node: Node, kept: Kept) -> dict[str, Any]:
    """The arguments of a node that must change when only `kept` indices are left."""
    found = None if node.op != "call_function" or node.target is operator.getitem else map_of(node)
    return {} if found is None or found.literals is None else found.literals(kept, node, arguments(node))
