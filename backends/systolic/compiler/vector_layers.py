"""Rules for layers of the vector unit: sums of two values, requantisation, tables, pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from ....arguments import arguments
from .array_layers import check_window, regroup
from .layers import Pointwise, Pool, merged, window_of, with_axes
from .selector import Refused, Selector
from .views import Axis, Operand, Table, View, channel_dims, operand


def _pointwise(selector: Selector, node: Node, x: Node, other: Node | None, rest: dict[str, Any]) -> None:
    shape = tuple(node.meta["val"].shape)
    result, table = selector.fused_table(node) if "table" not in rest else (node, rest.pop("table"))
    nodes = [x] if other is None else [x, other]
    views = [selector.view(n).expand(shape) for n in nodes]
    channels = sorted({d for view in views for d in channel_dims(view, selector.columns)})
    operands = []
    for n, view in zip(nodes, views, strict=True):
        found = operand(view, channels, selector.columns)
        if isinstance(found, str):
            raise Refused(node, f"its operand %{n.name} cannot be read: {found}")
        operands.append(found)
    if len(channels) == 1 and any(not np.array_equal(o.places, operands[0].places) for o in operands[1:]):
        operands = [
            o if np.array_equal(o.places, np.arange(o.channels)) else regroup(selector, node, o, shape, channels[0])
            for o in operands
        ]
    places = operands[0].places
    if any(not np.array_equal(o.places, places) for o in operands[1:]):
        raise Refused(node, "its operands hold their channels in different orders")
    if len(channels) == 1:
        output = operand(selector.allocate(result, channels[0], places), channels, selector.columns)
    else:
        output = operand(_like(selector, result, shape, channels, operands[0]), channels, selector.columns)
    assert not isinstance(output, str)
    *operands, output = merged(*operands, output)
    source, residual = operands[0], operands[1] if len(operands) > 1 else None
    head = selector.head(node)
    selector.add(Pointwise(**head, source=source, residual=residual, output=output, table=table, **rest))


def _like(selector: Selector, node: Node, shape: Sequence[int], channels: Sequence[int], like: Operand) -> View:
    """Memory for a value with several channel dims: each pixel's words lie as those of `like`."""
    sizes = [shape[d] for d in channels]
    first = int(like.places[0])
    tables: list[Table] = []
    places = like.places.reshape(sizes) - first
    for axis in range(len(sizes)):
        index = tuple(slice(None) if i == axis else 0 for i in range(len(sizes)))
        tables.append(places[index].astype(np.int64))
    step = len(like.words) * selector.columns
    whole: dict[int, Table] = dict(zip(channels, tables, strict=True))
    for dim in reversed(range(len(shape))):
        if dim not in whole:
            whole[dim] = np.arange(shape[dim], dtype=np.int64) * step
            step *= shape[dim]
    buffer = selector.buffer(node.name, step // selector.columns)
    selector.done.values[node] = View(buffer, first, tuple(whole[d] for d in range(len(shape))))
    return selector.view(node)


def sum_(selector: Selector, node: Node) -> None:
    values = arguments(node)
    factors = [torch.tensor(values[f"{n}_scale"], dtype=torch.float64) / values["y_scale"] for n in "ab"]
    requantized = selector.requantization(node, -values["a_zero"], factors)
    for n in "ab":
        if not isinstance(values[n], Node) or values[n].op == "get_attr":
            raise Refused(node, "an operand is constant")
    _pointwise(selector, node, values["a"], values["b"], {"requantization": requantized})


def requantize(selector: Selector, node: Node) -> None:
    values = arguments(node)
    factor = torch.tensor(values["x_scale"], dtype=torch.float64) / values["y_scale"]
    requantized = selector.requantization(node, -values["x_zero"], [factor])
    _pointwise(selector, node, values["x"], None, {"requantization": requantized})


def lookup(selector: Selector, node: Node) -> None:
    if node in selector.done.values:
        return  # part of the layer that makes its operand
    _pointwise(selector, node, arguments(node)["x"], None, {"table": selector.table(node)})


def pool(selector: Selector, node: Node) -> None:
    values = arguments(node)
    average = "x_scale" in values
    rank = len(values["kernel"])
    lanes = rank + 1 if values["channels_last"] else 1
    shape = tuple(node.meta["val"].shape)
    sizes = [n for d, n in enumerate(values["x"].meta["val"].shape) if d not in (0, lanes)]
    results = [n for d, n in enumerate(shape) if d not in (0, lanes)]
    kernel, stride, padding = (list(values[name]) for name in ("kernel", "stride", "padding"))
    stride = stride or kernel
    dilation = list(values.get("dilation") or [1] * rank)
    kernel, stride, padding, dilation = (
        x * rank if len(x) == 1 and rank == 2 else x for x in (kernel, stride, padding, dilation)
    )
    pads: list[int] = []
    for size, result, k, s, before, d in zip(sizes, results, kernel, stride, padding, dilation, strict=True):
        pads += [before, max(0, (result - 1) * s + (k - 1) * d + 1 - size - before)]
    window = window_of(kernel, stride, dilation, pads, values["x_zero"] if average else -128)
    check_window(node, window)
    requantized = None
    if average:
        factor = torch.tensor(values["x_scale"], dtype=torch.float64) / (values["y_scale"] * window.taps)
        requantized = selector.requantization(node, -window.taps * values["x_zero"], [factor])
    source = selector.operand(values["x"], [lanes], node)
    result_node, table = selector.fused_table(node)
    output = operand(selector.allocate(result_node, lanes, source.places), [lanes], selector.columns)
    assert not isinstance(output, str)
    if rank == 1:
        source, output = (with_axes(x, (*x.axes[:-1], Axis(1, 0), x.axes[-1])) for x in (source, output))
    selector.add(
        Pool(
            **selector.head(node), source=source, output=output, window=window, maximum=not average,
            requantization=requantized, table=table,
        )
    )  # fmt: skip
