"""chains of reshapes and permutes  ->  one of each, or none"""

from __future__ import annotations

from collections.abc import Sequence

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
TRANSPOSES = (aten.t.default, aten.transpose.int, aten.movedim.intlist, aten.movedim.int)


@rewrite(*RESHAPES, aten.reshape.default)
def normalize_reshape(node: Node, rw: Rewriter) -> None:
    """unsqueeze, squeeze, flatten, view, reshape with -1  ->  reshape(x, sizes)"""
    sizes = list(shape(node))
    if not is_static(node) or (node.target is aten.reshape.default and list(node.args[1]) == sizes):  # type: ignore[arg-type]
        return
    rw.replace(node, rw.call(aten.reshape.default, node.args[0], sizes, at=node))


@rewrite(*TRANSPOSES, aten.permute.default)
def normalize_permute(node: Node, rw: Rewriter) -> None:
    """t, transpose, movedim, permute with negative dims  ->  permute(x, dims)"""
    x: Node = node.args[0]  # type: ignore[assignment]
    # A tensor whose sizes name its dims tells what the op does to them.
    named = torch.empty([i + 1 for i in range(len(shape(x)))], device="meta")
    order = [size - 1 for size in node.target(named, *node.args[1:], **node.kwargs).shape]  # type: ignore[operator]
    if node.target is aten.permute.default and list(node.args[1]) == order:  # type: ignore[arg-type]
        return
    rw.replace(node, rw.call(aten.permute.default, x, order, at=node))


@rewrite(aten.reshape.default)
def compose_reshapes(node: Node, rw: Rewriter) -> None:
    """reshape(reshape(x))  ->  reshape(x); reshape(x, its shape)  ->  x"""
    x: Node = node.args[0]  # type: ignore[assignment]
    if same_type(x, node):
        rw.replace(node, x)
    elif is_call(x, aten.reshape.default):
        rw.replace(node, rw.call(aten.reshape.default, x.args[0], node.args[1], at=node))


@rewrite(aten.permute.default)
def compose_permutes(node: Node, rw: Rewriter) -> None:
    """permute(permute(x))  ->  permute(x); permute(x, in order)  ->  x; only ones move  ->  reshape"""
    x: Node = node.args[0]  # type: ignore[assignment]
    order = [d % len(shape(x)) for d in node.args[1]]  # type: ignore[union-attr]
    if order == sorted(order):
        rw.replace(node, x)
    elif is_static(x) and _keeps_memory(order, shape(x)):
        rw.replace(node, rw.call(aten.reshape.default, x, list(shape(node)), at=node))
    elif is_call(x, aten.permute.default):
        rank = len(order)
        inner = [d % rank for d in x.args[1]]  # type: ignore[union-attr]
        rw.replace(node, rw.call(aten.permute.default, x.args[0], [inner[d] for d in order], at=node))


def _keeps_memory(order: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether the dims larger than one stay in their order."""
    moved = [d for d in order if sizes[d] != 1]
    return moved == sorted(moved)


@rewrite(aten.expand.default)
def compose_expands(node: Node, rw: Rewriter) -> None:
    """expand(expand(x))  ->  expand(x)"""
    x: Node = node.args[0]  # type: ignore[assignment]
    if is_call(x, aten.expand.default) and is_static(node):
        rw.replace(node, rw.call(aten.expand.default, x.args[0], list(shape(node)), at=node))
