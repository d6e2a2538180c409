"""chains of reshapes, permutes and expands  ->  one of each, or none"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import is_call, is_static, same_type, shape

aten = torch.ops.aten

RESHAPES = (
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.view.default,
)
"""Ops that say aten.reshape in other words."""

TRANSPOSES = (aten.movedim.int, aten.movedim.intlist, aten.t.default, aten.transpose.int)
"""Ops that say aten.permute in other words."""


# not "exact": where an element lies decides whether PyTorch's vector or scalar code computes what follows
@rewrite(
    *RESHAPES,
    *TRANSPOSES,
    aten.reshape.default,
    aten.permute.default,
    aten.expand.default,
    accuracy="reassociating",
)
def compose_views(node: Node, rw: Rewriter) -> None:
    """permute(permute(x)), reshape(squeeze(x)), expand(expand(x))  ->  one permute, reshape, expand, or none

    All that reshapes becomes aten.reshape with its sizes, all that permutes aten.permute with dims from the front. A
    permute that moves only dims of size one is a reshape. Values whose sizes vary keep their reshapes.
    """
    if node.target in RESHAPES:
        _spell_reshape(node, rw)
    elif node.target in TRANSPOSES:
        rw.replace(node, _permute(node, rw, node.args[0], _order(node)))
    elif node.target is aten.reshape.default:
        _compose_reshapes(node, rw)
    elif node.target is aten.permute.default:
        _compose_permutes(node, rw)
    else:
        _compose_expands(node, rw)


def _spell_reshape(node: Node, rw: Rewriter) -> None:
    if is_static(node):
        rw.replace(node, rw.call(aten.reshape.default, node.args[0], list(shape(node)), at=node))


def _compose_reshapes(node: Node, rw: Rewriter) -> None:
    x, sizes = _operand(node), list(shape(node))
    if same_type(x, node):
        rw.replace(node, x)
    elif is_static(node) and is_call(x, aten.reshape.default):
        rw.replace(node, rw.call(aten.reshape.default, x.args[0], sizes, at=node))
    elif is_static(node) and list(node.args[1]) != sizes:
        rw.replace(node, rw.call(aten.reshape.default, x, sizes, at=node))


def _compose_permutes(node: Node, rw: Rewriter) -> None:
    x, order = _operand(node), _order(node)
    if order == sorted(order):
        rw.replace(node, x)
    elif is_call(x, aten.permute.default):
        inner = _order(x)
        rw.replace(node, _permute(node, rw, x.args[0], [inner[d] for d in order]))
    elif is_static(x) and _keeps_memory(order, shape(x)) and not any(_is_permute(user) for user in node.users):
        rw.replace(node, rw.call(aten.reshape.default, x, list(shape(node)), at=node))
    elif list(node.args[1]) != order:
        rw.replace(node, _permute(node, rw, x, order))


def _compose_expands(node: Node, rw: Rewriter) -> None:
    x = _operand(node)
    if same_type(x, node):
        rw.replace(node, x)
    elif is_static(node) and is_call(x, aten.expand.default):
        rw.replace(node, rw.call(aten.expand.default, x.args[0], list(shape(node)), at=node))


def _is_permute(node: Node) -> bool:
    return is_call(node, aten.permute.default, *TRANSPOSES)


def _operand(node: Node) -> Node:
    return node.args[0]


def _permute(node: Node, rw: Rewriter, x: Any, order: list[int]) -> Node:
    return rw.call(aten.permute.default, x, order, at=node)


def _order(node: Node) -> list[int]:
    """Where each dim of a permute or transpose comes from: a tensor whose sizes name its dims tells."""
    named = torch.empty([i + 1 for i in range(len(shape(_operand(node))))], device="meta")
    return [size - 1 for size in node.target(named, *node.args[1:], **node.kwargs).shape]


def _keeps_memory(order: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether the dims larger than one stay in their order."""
    moved = [d for d in order if sizes[d] != 1]
    return moved == sorted(moved)
