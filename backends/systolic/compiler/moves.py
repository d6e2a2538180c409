"""Rules for ops that move values: views cost nothing, concatenations are made in place or copied."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from ....arguments import arguments
from .array_layers import permute_lanes
from .layers import Copy, merged
from .selector import Refused, Selector
from .views import channel_dims
from .views import operand as operand_of

aten = torch.ops.aten


def concatenate(selector: Selector, node: Node) -> None:
    values, start = arguments(node), 0
    dim = values["dim"] % node.meta["val"].dim()
    parts = [part for part in values["tensors"] if part.meta["val"].dim() == node.meta["val"].dim()]
    for part in parts:
        if node in selector.done.values:
            break
        lanes = channel_dims(selector.view(part), selector.columns)
        if len(lanes) > 1:
            raise Refused(node, "its operands' words hold several dims")
        selector.allocate_whole(node, lanes[0])
    whole = selector.view(node)
    lanes = _lanes_of(selector, node)
    for part in parts:
        size = part.meta["val"].shape[dim]
        slot, view = whole.slice(dim, start, size), selector.view(part)
        start += size
        if view.buffer is slot.buffer and view.start == slot.start:
            continue
        source, output = selector.operand(part, lanes, node), operand_of(slot, lanes, selector.columns)
        assert not isinstance(output, str)
        if not np.array_equal(source.places, output.places) or len(source.words) != len(output.words):
            permute_lanes(selector, node, source, output)
            continue
        source, output = merged(source, output)
        selector.add(Copy(**selector.head(node), source=source, output=output))


def _lanes_of(selector: Selector, node: Node) -> list[int]:
    """The dim of a concatenation that holds channels."""
    view = selector.view(node)
    return channel_dims(view, selector.columns)[:1]


def same(selector: Selector, node: Node) -> None:
    selector.done.values[node] = selector.view(node.args[0])


def permute(selector: Selector, node: Node) -> None:
    view = selector.view(node.args[0])
    selector.done.values[node] = view.permute([d % len(view.tables) for d in node.args[1]])


def transpose(selector: Selector, node: Node) -> None:
    view = selector.view(node.args[0])
    dims = list(range(len(view.tables)))
    values = arguments(node)
    first, second = values.get("dim0", 0), values.get("dim1", 1)
    dims[first], dims[second] = dims[second], dims[first]
    selector.done.values[node] = view.permute(dims)


def reshape(selector: Selector, node: Node) -> None:
    view = selector.view(node.args[0]).reshape(node.meta["val"].shape)
    if view is None:
        raise Refused(node, "it cuts channels that lie in padded words; no strides describe that")
    selector.done.values[node] = view


def expand(selector: Selector, node: Node) -> None:
    selector.done.values[node] = selector.view(node.args[0]).expand(node.meta["val"].shape)


def slice_(selector: Selector, node: Node) -> None:
    values = arguments(node)
    view = selector.view(values["self"])
    dim = values["dim"] % len(view.tables)
    size, start = view.shape[dim], values["start"] or 0
    start = min(max(start + (size if start < 0 else 0), 0), size)
    selector.done.values[node] = view.slice(dim, start, node.meta["val"].shape[dim], values["step"])


def select_one(selector: Selector, node: Node) -> None:
    values = arguments(node)
    view = selector.view(values["self"])
    dim = values["dim"] % len(view.tables)
    selector.done.values[node] = view.select(dim, values["index"] % view.shape[dim])


def parts(selector: Selector, node: Node) -> None:
    """Several results: `getitem` takes one."""


def item(selector: Selector, node: Node) -> None:
    source, index = node.args
    values = arguments(source)
    view = selector.view(values["self"])
    dim = values.get("dim", 0) % len(view.tables)
    if source.target is aten.unbind.int:
        selector.done.values[node] = view.select(dim, index)
        return
    sizes = [value.shape[dim] for value in source.meta["val"]]
    selector.done.values[node] = view.slice(dim, sum(sizes[:index]), sizes[index])
