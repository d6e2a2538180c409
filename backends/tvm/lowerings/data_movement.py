"""Ops that only move data: padding, repeating, shuffling. Each is a few strided copies."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ....target import Target
from ..graph_lowering import GraphLowering, OpRule
from ..views import View
from .view_ops import argument, shape_of

aten = torch.ops.aten


def constant_pad(node: Node, cx: GraphLowering) -> None:
    """Fill the whole output, then copy the input over its part; negative pads cut the input."""
    x, pads = cx.view(node.args[0]), list(node.args[1])
    value = argument(node, 2, "value", 0)
    out = inside = cx.output(node, strided=True)
    rank = len(x.shape)
    for i in range(len(pads) // 2):
        dim, before, after = rank - 1 - i, pads[2 * i], pads[2 * i + 1]
        length = x.shape[dim] + min(before, 0) + min(after, 0)
        x = x.slice(dim, max(-before, 0), length)
        inside = inside.slice(dim, max(before, 0), length)
    if inside.elements != out.elements:
        cx.fill(out, value, "padding")
    if inside.elements:
        cx.copy(x, inside)


def repeat(node: Node, cx: GraphLowering) -> None:
    """The output seen as [repeats, size] in each dimension, with the input broadcast over the repeats."""
    x, out = cx.view(node.args[0]), cx.output(node, strided=True)
    repeats = list(node.args[1])
    x = x.expand((*(1,) * (len(repeats) - len(x.shape)), *x.shape))
    shape, from_strides, to_strides = [], [], []
    for size, stride, step, times in zip(x.shape, x.strides, out.strides, repeats, strict=True):
        shape += [times, size]
        from_strides += [0, stride]
        to_strides += [step * size, step]
    source = View(x.storage, x.offset, tuple(shape), tuple(from_strides))
    cx.copy(source, View(out.storage, out.offset, tuple(shape), tuple(to_strides)))


def flip(node: Node, cx: GraphLowering) -> None:
    x = cx.view(node.args[0])
    offset, strides = x.offset, list(x.strides)
    for dim in node.args[1]:
        offset += (x.shape[dim] - 1) * x.strides[dim]
        strides[dim] = -x.strides[dim]
    cx.copy(View(x.storage, offset, x.shape, tuple(strides)), cx.output(node, strided=True))


def roll(node: Node, cx: GraphLowering) -> None:
    """Copy the pieces that stay together; without dims the value is rolled flat."""
    x, shifts, dims = cx.view(node.args[0]), list(node.args[1]), list(argument(node, 2, "dims", []))
    out = cx.output(node)
    if not dims:
        x = cx.contiguous(x)
        x, flat, dims = _flat(x), _flat(out), [0]
        _roll(cx, x, flat, shifts, dims)
    else:
        _roll(cx, x, out, shifts, dims)


def _roll(cx: GraphLowering, x: View, out: View, shifts: list[int], dims: list[int]) -> None:
    if not dims:
        if x.elements:
            cx.copy(x, out)
        return
    dim, size = dims[0], x.shape[dims[0]]
    shift = shifts[0] % size if size else 0
    for source, destination, length in ((0, shift, size - shift), (size - shift, 0, shift)):
        if length:
            pieces = x.slice(dim, source, length), out.slice(dim, destination, length)
            _roll(cx, *pieces, shifts[1:], dims[1:])


def _flat(view: View) -> View:
    flat = view.reshape((view.elements,))
    assert flat is not None
    return flat


def pixel_shuffle(node: Node, cx: GraphLowering) -> None:
    """[n, c r r, h, w] seen as [n, c, h, r, w, r] and copied densely."""
    x, r = cx.view(node.args[0]), node.args[1]
    *batch, channels, height, width = x.shape
    *batch_strides, channel_stride, h, w = x.strides
    shape = (*batch, channels // (r * r), height, r, width, r)
    strides = (*batch_strides, channel_stride * r * r, h, channel_stride * r, w, channel_stride)
    _shuffle(node, cx, View(x.storage, x.offset, shape, strides))


def pixel_unshuffle(node: Node, cx: GraphLowering) -> None:
    """[n, c, h r, w r] seen as [n, c, r, r, h, w] and copied densely."""
    x, r = cx.view(node.args[0]), node.args[1]
    *batch, channels, height, width = x.shape
    *batch_strides, channel_stride, h, w = x.strides
    shape = (*batch, channels, r, r, height // r, width // r)
    strides = (*batch_strides, channel_stride, h, w, h * r, w * r)
    _shuffle(node, cx, View(x.storage, x.offset, shape, strides))


def channel_shuffle(node: Node, cx: GraphLowering) -> None:
    x, groups = cx.view(node.args[0]), node.args[1]
    shape = (x.shape[0], x.shape[1] // groups, groups, *x.shape[2:])
    strides = (x.strides[0], x.strides[1], x.strides[1] * (x.shape[1] // groups), *x.strides[2:])
    _shuffle(node, cx, View(x.storage, x.offset, shape, strides))


def _shuffle(node: Node, cx: GraphLowering, source: View) -> None:
    out = cx.output(node)
    destination = out.reshape(source.shape)
    assert destination is not None
    cx.copy(source, destination)


def reflection_pad(node: Node, cx: GraphLowering) -> None:
    """Copy the interior, then for each dimension the mirrored strips of what is already there."""
    _border(node, cx, mirrored=True)


def replication_pad(node: Node, cx: GraphLowering) -> None:
    """Copy the interior, then for each dimension repeat its first and last slice."""
    _border(node, cx, mirrored=False)


def _border(node: Node, cx: GraphLowering, mirrored: bool) -> None:
    x, pads = cx.view(node.args[0]), list(node.args[1])
    out = cx.output(node, strided=True)
    rank = len(x.shape)
    inside = out
    for i in range(len(pads) // 2):
        inside = inside.slice(rank - 1 - i, pads[2 * i], x.shape[rank - 1 - i])
    cx.copy(x, inside)
    filled = list(range(rank - len(pads) // 2, rank))  # dims whose border is still missing
    for i in range(len(pads) // 2):
        dim, before, after = rank - 1 - i, pads[2 * i], pads[2 * i + 1]
        filled.remove(dim)
        whole = out
        for other in filled:
            j = rank - 1 - other
            whole = whole.slice(other, pads[2 * j], x.shape[other])
        size = x.shape[dim]
        for width, first, edge, mirror_from in (
            (before, 0, before, before + before), (after, before + size, before + size - 1, before + size - 2),
        ):  # fmt: skip
            if not width:
                continue
            strip = whole.slice(dim, first, width)
            start = whole.offset + (mirror_from if mirrored else edge) * whole.strides[dim]
            strides = list(whole.strides)
            strides[dim] = -whole.strides[dim] if mirrored else 0
            cx.copy(View(out.storage, start, strip.shape, tuple(strides)), strip)


def check_pad(node: Node, target: Target) -> str | None:
    return "negative pads are not supported" if min(node.args[1]) < 0 else None


def stack(node: Node, cx: GraphLowering) -> None:
    out = cx.output(node)
    dim = argument(node, 1, "dim", 0) % len(shape_of(node))
    for i, operand in enumerate(node.args[0]):
        cx.copy(cx.view(operand), out.select(dim, i))


def slice_scatter(node: Node, cx: GraphLowering) -> None:
    x, source = cx.view(node.args[0]), cx.view(node.args[1])
    out = cx.output(node)
    dim = argument(node, 2, "dim", 0) % len(x.shape)
    size, step = x.shape[dim], argument(node, 5, "step", 1)
    start = argument(node, 3, "start") or 0
    start = min(max(start + (size if start < 0 else 0), 0), size)
    cx.copy(x, out)
    cx.copy(source, out.slice(dim, start, source.shape[dim], step))


def select_scatter(node: Node, cx: GraphLowering) -> None:
    first, second, dim, index = node.args
    x, source = cx.view(first), cx.view(second)
    out = cx.output(node)
    dim %= len(x.shape)
    cx.copy(x, out)
    cx.copy(source, out.select(dim, index % x.shape[dim]))


RULES: dict[Any, OpRule] = {
    aten.constant_pad_nd.default: OpRule(constant_pad),
    aten.repeat.default: OpRule(repeat),
    aten.flip.default: OpRule(flip),
    aten.roll.default: OpRule(roll),
    aten.pixel_shuffle.default: OpRule(pixel_shuffle),
    aten.pixel_unshuffle.default: OpRule(pixel_unshuffle),
    aten.channel_shuffle.default: OpRule(channel_shuffle),
    aten.reflection_pad1d.default: OpRule(reflection_pad, check_pad),
    aten.reflection_pad2d.default: OpRule(reflection_pad, check_pad),
    aten.reflection_pad3d.default: OpRule(reflection_pad, check_pad),
    aten.replication_pad1d.default: OpRule(replication_pad, check_pad),
    aten.replication_pad2d.default: OpRule(replication_pad, check_pad),
    aten.replication_pad3d.default: OpRule(replication_pad, check_pad),
    aten.stack.default: OpRule(stack),
    aten.slice_scatter.default: OpRule(slice_scatter),
    aten.select_scatter.default: OpRule(select_scatter),
}
