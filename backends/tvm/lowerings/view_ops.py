"""View ops: they move no data where strides can say the same, and copy where they cannot."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from ....target import Target
from ..graph_lowering import GraphLowering, OpRule
from ..views import View

aten = torch.ops.aten


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """An argument given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def reduced_dims(dims: Any, rank: int) -> tuple[int, ...]:
    """The dims that a reduction's argument means, ascending: one, several, or all for None and none at all."""
    if dims is None or dims == []:
        return tuple(range(rank))
    return tuple(sorted(d % max(rank, 1) for d in ([dims] if isinstance(dims, int) else dims)))


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of a node's value."""
    return tuple(node.meta["val"].shape)


def same_memory(node: Node, cx: GraphLowering) -> None:
    cx.alias(node, cx.held(node.args[0]))


def permute(node: Node, cx: GraphLowering) -> None:
    x = cx.held(node.args[0])
    cx.alias(node, x.permute([d % len(x.shape) for d in node.args[1]]))


def transpose(node: Node, cx: GraphLowering) -> None:
    x = cx.held(node.args[0])
    dims = list(range(len(x.shape)))
    first, second = node.args[1:] if len(node.args) > 1 else (0, min(1, len(dims) - 1))
    if dims:
        dims[first], dims[second] = dims[second], dims[first]
    cx.alias(node, x.permute(dims))


def reshape(node: Node, cx: GraphLowering) -> None:
    x, shape = cx.held(node.args[0]), shape_of(node)
    view = x.reshape(shape)
    if view is None:
        view = cx.contiguous(x, "copy: the reshape joins dimensions that do not lie densely").reshape(shape)
        assert view is not None
    cx.alias(node, view)


def expand(node: Node, cx: GraphLowering) -> None:
    cx.alias(node, cx.held(node.args[0]).expand(shape_of(node)))


def select(node: Node, cx: GraphLowering) -> None:
    source, dim, index = node.args
    x = cx.held(source)
    dim %= len(x.shape)
    cx.alias(node, x.select(dim, index % x.shape[dim]))


def slice_(node: Node, cx: GraphLowering) -> None:
    x = cx.held(node.args[0])
    dim = argument(node, 1, "dim", 0) % len(x.shape)
    start, step = argument(node, 2, "start"), argument(node, 4, "step", 1)
    size = x.shape[dim]
    start = min(max((start or 0) + (size if (start or 0) < 0 else 0), 0), size)
    cx.alias(node, x.slice(dim, start, shape_of(node)[dim], step))


def split(node: Node, cx: GraphLowering) -> None:
    x = cx.held(node.args[0])
    dim = argument(node, 2, "dim", 0) % len(x.shape)
    views: list[View] = []
    start = 0
    for value in node.meta["val"]:
        views.append(x.slice(dim, start, value.shape[dim]))
        start += value.shape[dim]
    cx.alias(node, tuple(views))


def unbind(node: Node, cx: GraphLowering) -> None:
    x = cx.held(node.args[0])
    dim = argument(node, 1, "dim", 0) % len(x.shape)
    cx.alias(node, tuple(x.select(dim, i) for i in range(x.shape[dim])))


def get_item(node: Node, cx: GraphLowering) -> None:
    source, index = node.args
    value = cx.values[source]
    assert isinstance(value, tuple)
    cx.alias(node, value[index])


def concatenate(node: Node, cx: GraphLowering) -> None:
    """Copy what was not computed in place."""
    dim = argument(node, 1, "dim", 0) % max(len(shape_of(node)), 1)
    biased = node.meta["val"].dtype == torch.int8
    whole = cx.held(node) if node in cx.values else cx.output(node, strided=True, biased=biased)
    start = 0
    for operand in node.args[0]:
        view = cx.held(operand)
        if len(view.shape) != len(whole.shape):
            continue  # PyTorch ignores one-dimensional empty operands
        slot = whole.slice(dim, start, view.shape[dim])
        start += view.shape[dim]
        if not view.elements or (view.storage is slot.storage and view.offset == slot.offset):
            continue
        if view.biased != slot.biased:
            cx.flip(view, slot)
        else:
            cx.copy(view, slot, "copy: into the concatenation")


def unfold(node: Node, cx: GraphLowering) -> None:
    source, dim, size, step = node.args
    x = cx.held(source)
    dim %= len(x.shape)
    shape, strides = list(x.shape), list(x.strides)
    shape[dim] = (x.shape[dim] - size) // step + 1
    strides[dim] *= step
    cx.alias(node, replace(x, shape=(*shape, size), strides=(*strides, x.strides[dim]), halo=()))


def diagonal(node: Node, cx: GraphLowering) -> None:
    """One stride walks both dims; the diagonal comes last."""
    x = cx.held(node.args[0])
    offset = argument(node, 1, "offset", 0)
    first, second = (d % len(x.shape) for d in (argument(node, 2, "dim1", 0), argument(node, 3, "dim2", 1)))
    start = x.offset + max(offset, 0) * x.strides[second] + max(-offset, 0) * x.strides[first]
    kept = [d for d in range(len(x.shape)) if d not in (first, second)]
    strides = [x.strides[d] for d in kept] + [x.strides[first] + x.strides[second]]
    shape = shape_of(node)
    cx.alias(node, replace(x, offset=start if shape[-1] else x.offset, shape=shape, strides=tuple(strides), halo=()))


def as_strided(node: Node, cx: GraphLowering) -> None:
    x = cx.contiguous(cx.held(node.args[0]))
    offset = argument(node, 3, "storage_offset") or 0
    shape, strides = tuple(node.args[1]), tuple(node.args[2])
    cx.alias(node, replace(x, offset=x.offset + offset, shape=shape, strides=strides, halo=()))


def check_as_strided(node: Node, target: Target) -> str | None:
    value = node.args[0].meta["val"]
    dense = value.is_contiguous() and value.storage_offset() == 0
    return None if dense else "its strides are those of memory that is not dense here; use a view op instead"


RULES: dict[Any, OpRule] = {
    operator.getitem: OpRule(get_item),
    aten.permute.default: OpRule(permute),
    aten.transpose.int: OpRule(transpose),
    aten.t.default: OpRule(transpose),
    aten.view.default: OpRule(reshape),
    aten._unsafe_view.default: OpRule(reshape),
    aten.reshape.default: OpRule(reshape),
    aten.flatten.using_ints: OpRule(reshape),
    aten.unflatten.int: OpRule(reshape),
    aten.unsqueeze.default: OpRule(reshape),
    aten.squeeze.default: OpRule(reshape),
    aten.squeeze.dim: OpRule(reshape),
    aten.squeeze.dims: OpRule(reshape),
    aten.expand.default: OpRule(expand),
    aten.select.int: OpRule(select),
    aten.slice.Tensor: OpRule(slice_),
    aten.split.Tensor: OpRule(split),
    aten.split_with_sizes.default: OpRule(split),
    aten.chunk.default: OpRule(split),
    aten.unbind.int: OpRule(unbind),
    aten.unfold.default: OpRule(unfold),
    aten.diagonal.default: OpRule(diagonal),
    aten.as_strided.default: OpRule(as_strided, check_as_strided),
    aten.cat.default: OpRule(concatenate),
    aten.alias.default: OpRule(same_memory),
    aten.detach.default: OpRule(same_memory),
    aten.clone.default: OpRule(same_memory),
    aten.contiguous.default: OpRule(same_memory),
    aten.lift_fresh_copy.default: OpRule(same_memory),
    aten.dropout.default: OpRule(same_memory),
}
