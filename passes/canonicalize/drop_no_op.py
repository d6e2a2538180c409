"""casts, slices, expands, repeats, copies that change nothing  ->  their input"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, dtype, is_call, same_type

aten = torch.ops.aten

SAME_WHEN_SAME_TYPE = (
    aten._to_copy.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.dropout.default,
    aten.expand.default,
    aten.lift_fresh_copy.default,
    aten.repeat.default,
    aten.slice.Tensor,
)
"""Ops that give their input again when they change neither its dtype nor its shape."""


@rewrite(*SAME_WHEN_SAME_TYPE)
def drop_no_op(node: Node, rw: Rewriter) -> None:
    """slice(x, all), expand(x, its shape), clone(x), cast(x, its dtype), dropout in evaluation  ->  x"""
    x = node.args[0]
    if not isinstance(x, Node) or not same_type(x, node) or x.meta["val"].device != node.meta["val"].device:
        return
    if node.target is aten.dropout.default and arguments(node)["train"]:
        return
    if node.target is aten.slice.Tensor and arguments(node)["step"] != 1:
        return  # one element: any step gives it again, but sizes that vary must not be asked
    rw.replace(node, x)


@rewrite(aten.cat.default)
def drop_single_cat(node: Node, rw: Rewriter) -> None:
    """cat([x])  ->  x"""
    tensors: Any = node.args[0]
    if len(tensors) == 1 and same_type(tensors[0], node):
        rw.replace(node, tensors[0])


@rewrite(aten._to_copy.default)
def compose_casts(node: Node, rw: Rewriter) -> None:
    """cast(cast(x, wide), narrow)  ->  cast(x, narrow), when the wide type holds every value of x"""
    inner = node.args[0]
    if not is_call(inner, aten._to_copy.default):
        return
    x = inner.args[0]
    if set(node.kwargs) != {"dtype"} or set(inner.kwargs) != {"dtype"}:
        return
    if not _holds(dtype(inner), dtype(x)):
        return
    rw.replace(node, x if dtype(x) == dtype(node) else rw.call(aten._to_copy.default, x, dtype=dtype(node), at=node))


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if narrow == torch.bool:
        return True
    if wide.is_complex or narrow.is_complex or wide == torch.bool:
        return False
    if narrow.is_floating_point:
        return wide.is_floating_point and _float_holds(torch.finfo(wide), torch.finfo(narrow))
    limits = torch.iinfo(narrow)
    if wide.is_floating_point:
        return 2 / torch.finfo(wide).eps >= max(limits.max, -limits.min) and torch.finfo(wide).max >= limits.max
    return torch.iinfo(wide).min <= limits.min and limits.max <= torch.iinfo(wide).max


def _float_holds(wide: torch.finfo, narrow: torch.finfo) -> bool:
    return wide.eps <= narrow.eps and wide.max >= narrow.max and wide.tiny <= narrow.tiny


@rewrite(aten.where.self)
def drop_decided_where(node: Node, rw: Rewriter) -> None:
    """where(all true, x, y)  ->  x; where(all false, x, y)  ->  y"""
    condition = rw.value(node.args[0])
    if condition is None or condition.numel() == 0:
        return
    if condition.all():
        chosen = node.args[1]
    elif not condition.any():
        chosen = node.args[2]
    else:
        return
    if isinstance(chosen, Node) and same_type(chosen, node):
        rw.replace(node, chosen)
