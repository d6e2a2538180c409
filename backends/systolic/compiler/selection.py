"""From the nodes of a program to layers: every node becomes a layer, a view that costs nothing, or is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from ....arguments import arguments
from ....ops import fxpress
from ....ops.quantized import real
from ....printer import op_name
from ....program import Program
from ..architecture import Architecture
from ..layout import Windows
from . import float_layers as _float_layers  # noqa: F401  (defines ops)
from .constants import requantization, sums_fit
from .layers import (
    Convolution,
    Copy,
    Layer,
    Pointwise,
    Pool,
    Product,
    Requantization,
    Weights,
    Window,
    identity_requantization,
    merged,
    with_axes,
)
from .views import Axis, Buffer, Operand, Table, View, channel_dims, dense, dense_tables, operand, words_of

aten = torch.ops.aten


class Refused(Exception):
    """A node that the array cannot run, and why."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


@dataclass
class Selection:
    """The layers of an array program in order, its buffers, and where each value of the graph lies.

    `windows` are the inputs that the host writes as sliding windows; `sums` the results that are int32 sums.
    """

    layers: list[Layer] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    values: dict[Node, View] = field(default_factory=dict)
    windows: dict[Node, Windows] = field(default_factory=dict)
    sums: set[Node] = field(default_factory=set)


def select(
    program: Program, architecture: Architecture, inputs: Sequence[Node], nodes: Sequence[Node], results: Iterable[Node]
) -> Selection:
    """Choose layers for `nodes`, given the int8 values `inputs`. Raises Refused for a node that cannot be done."""
    selector = _Selector(program, architecture, set(nodes), set(results))
    selector.place(nodes)
    for node in inputs:
        selector.input(node)
    for node in nodes:
        RULES[node.target](selector, node)
    return selector.done


class _Selector:
    def __init__(self, program: Program, architecture: Architecture, inside: set[Node], results: set[Node]) -> None:
        self.program, self.columns, self.rows = program, architecture.columns, architecture.rows
        self.beats = architecture.beats
        self.inside, self.results = inside, results
        self.done = Selection()
        self._slots: dict[Node, tuple[Node, int, int]] = {}  # value -> the concatenation it is made in, dim, start

    # values

    def view(self, node: Node) -> View:
        return self.done.values[node]

    def constant(self, node: Any, of: Node, what: str) -> torch.Tensor:
        if not isinstance(node, Node) or node.op != "get_attr":
            raise Refused(of, f"its {what} is computed, not constant")
        return self.program.constant(node)

    def operand(self, node: Node, channels: Sequence[int], of: Node) -> Operand:
        found = operand(self.view(node), channels, self.columns)
        if isinstance(found, str):
            raise Refused(of, f"its operand %{node.name} cannot be read: {found}")
        return found

    def buffer(self, name: str, words: int) -> Buffer:
        buffer = Buffer(name, words)
        self.done.buffers.append(buffer)
        return buffer

    def allocate(self, node: Node, lanes: int, table: Table | None = None, shape: Sequence[int] | None = None) -> View:
        """Memory for a value whose channels are the dim `lanes`: in the concatenation that reads it, or of its own."""
        shape = tuple(node.meta["val"].shape) if shape is None else tuple(shape)
        canonical = np.arange(shape[lanes], dtype=np.int64)
        if node in self._slots and (table is None or np.array_equal(table, canonical)):
            whole, dim, start = self._slots[node]
            if whole not in self.done.values:
                self._allocate_whole(whole, lanes)
            self.done.values[node] = self.view(whole).slice(dim, start, shape[dim])
            return self.view(node)
        table = canonical if table is None else table
        words = words_of(table, self.columns) * int(np.prod([n for d, n in enumerate(shape) if d != lanes]))
        self.done.values[node] = dense(self.buffer(node.name, words), shape, lanes, table, self.columns)
        return self.view(node)

    def _allocate_whole(self, node: Node, lanes: int) -> None:
        values = arguments(node)
        dim = values["dim"] % node.meta["val"].dim()
        if dim != lanes:
            self.allocate(node, lanes)
            return
        pieces, start = [], 0
        for part in values["tensors"]:
            channels = part.meta["val"].shape[dim]
            pieces.append(np.arange(channels, dtype=np.int64) + start * self.columns)
            start += -(-channels // self.columns)
        self.allocate(node, lanes, np.concatenate(pieces))

    def place(self, nodes: Sequence[Node]) -> None:
        """Let concatenations be made in place: their operands are results of layers that have no other place yet."""
        for node in reversed(nodes):
            if node.target is not aten.cat.default:
                continue
            values, start = arguments(node), 0
            dim = values["dim"] % node.meta["val"].dim()
            for part in values["tensors"]:
                if part in self.inside and part not in self._slots and part.target in _MAKES:
                    self._slots[part] = (node, dim, start)
                start += part.meta["val"].shape[dim]

    def input(self, node: Node) -> None:
        users = [user for user in node.users if user in self.inside]
        first = users[0] if users else None
        values = arguments(first) if first is not None and first.target is not operator.getitem else {}
        if first is not None and len(users) == 1 and node not in self.results and self._wants_windows(first):
            self._input_windows(node, first)
            return
        rank = node.meta["val"].dim()
        self.allocate(node, 1 if rank > 1 and values.get("channels_last") is False else rank - 1)

    def _wants_windows(self, conv: Node) -> bool:
        """Whether the array and the load unit together take less time when the host lays out windows."""
        if conv.target not in (fxpress.quantized_conv.default, fxpress.conv_sums.default):
            return False
        values = arguments(conv)
        oc, ic, *kernel = values["weight"].meta["val"].shape
        if values["groups"] != 1 or values.get("residual") is values["x"]:
            return False
        taps, positions = int(np.prod(kernel)), conv.meta["val"].numel() // oc
        source = values["x"].meta["val"].numel() // ic

        def cycles(words: int, load: int) -> int:
            return max(positions * words * self.columns // self.rows * -(-oc // self.columns), load * self.beats)

        direct, packed = taps * -(-ic // self.columns), -(-taps * ic // self.columns)
        return cycles(packed, positions * packed) < cycles(direct, source * -(-ic // self.columns))

    def _input_windows(self, node: Node, conv: Node) -> None:
        values = arguments(conv)
        kernel = tuple(values["weight"].meta["val"].shape[2:])
        last = values["channels_last"]
        out = conv.meta["val"].shape
        n, positions = out[0], tuple(out[1:-1] if last else out[2:])
        self.done.windows[node] = Windows(
            kernel, tuple(values["stride"]), tuple(values["padding"]), tuple(values["dilation"]), values["x_zero"], last
        )
        ic = values["weight"].meta["val"].shape[1]
        shape = (n, *positions, int(np.prod(kernel)) * ic)
        whole = self.allocate(node, len(shape) - 1, shape=shape)
        parted = whole.reshape((n, *positions, *kernel, ic))
        assert parted is not None
        self.done.values[node] = parted

    # layers

    def add(self, layer: Layer) -> None:
        self.done.layers.append(layer)

    def head(self, node: Node) -> dict[str, Any]:
        return {"name": node.name, "op": op_name(node.target), "where": str(node.meta.get("source", ""))}

    def fused_table(self, node: Node) -> tuple[Node, Weights | None]:
        """The lookup that is all that reads this node's result, and its table; else the node itself."""
        users = list(node.users)
        if len(users) != 1 or users[0] not in self.inside or node in self.results:
            return node, None
        if users[0].target is not fxpress.lookup.default:
            return node, None
        return users[0], self.table(users[0])

    def table(self, node: Node) -> Weights:
        return self.constant(arguments(node)["table"], node, "table").numpy().astype(np.int8)

    def requantization(self, node: Node, bias: Any, factors: Sequence[torch.Tensor]) -> Requantization:
        values = arguments(node)
        zero = values.get("residual_zero", values.get("b_zero", 0))
        found = requantization(bias, factors, values["y_zero"], values["low"], values["high"], zero)
        if isinstance(found, str):
            raise Refused(node, found)
        return found

    def sums(self, node: Node, lanes: int) -> View:
        """Memory for int32 sums."""
        shape = tuple(node.meta["val"].shape)
        table = np.arange(shape[lanes], dtype=np.int64) * 4
        blocks = -(-shape[lanes] // self.columns)
        pixels = int(np.prod([n for d, n in enumerate(shape) if d != lanes]))
        padded = np.append(table, 4 * self.columns * blocks - 1)  # whole accumulator words
        tables = list(dense_tables(shape, lanes, padded, self.columns))
        tables[lanes] = table
        self.done.sums.add(node)
        self.done.values[node] = View(self.buffer(node.name, 4 * blocks * pixels), 0, tuple(tables))
        return self.view(node)

    def sums_operand(self, view: View, lanes: int) -> Operand:
        found = operand(view, [lanes], self.columns)
        assert not isinstance(found, str)
        channels = found.channels
        blocks = -(-channels // self.columns)
        return replace(found, words=np.arange(blocks), places=np.arange(channels))


def _weight_and_bias(selector: _Selector, node: Node) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The constants of a layer; one that gives sums has no bias."""
    values = arguments(node)
    weight = selector.constant(values["weight"], node, "weight")
    bias = selector.constant(values["bias"], node, "bias") if "bias" in values else None
    if not sums_fit(weight, bias):
        raise Refused(node, "its sums of products may leave 32 bits; split its input channels")
    return weight, bias


def _convolution(selector: _Selector, node: Node) -> None:
    values = arguments(node)
    weight, bias = _weight_and_bias(selector, node)
    rank = weight.dim()
    lanes = rank - 1 if values["channels_last"] else 1
    two = [1] * (4 - rank)  # a row of one for convolutions in one dimension
    packed = values["x"] in selector.done.windows
    if packed:
        source = selector.operand(values["x"], range(rank - 1, 2 * rank - 2), node)
        weight = weight.movedim(1, -1).reshape(weight.shape[0], -1, 1, 1)
        window = Window(fill=values["x_zero"])
    else:
        source = selector.operand(values["x"], [lanes], node)
        weight = weight.reshape(*weight.shape[:2], *two, *weight.shape[2:])
        (stride_y, stride_x), (dilation_y, dilation_x) = ((*two, *values[name]) for name in ("stride", "dilation"))
        before_after = (0, 0, *values["padding"]) if rank == 3 else tuple(values["padding"])
        window = Window(
            (weight.shape[2], weight.shape[3]), (stride_y, stride_x), (dilation_y, dilation_x), before_after,
            values["x_zero"],
        )  # fmt: skip
    _layer(selector, node, source, weight, bias, window, lanes, groups=values["groups"], one_row=rank == 3)


def _linear(selector: _Selector, node: Node) -> None:
    values = arguments(node)
    weight, bias = _weight_and_bias(selector, node)
    rank = values["x"].meta["val"].dim()
    source = selector.operand(values["x"], [rank - 1], node)
    _layer(selector, node, source, weight[:, :, None, None], bias, Window(), rank - 1)


def _layer(
    selector: _Selector,
    node: Node,
    source: Operand,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    window: Window,
    lanes: int,
    *,
    groups: int = 1,
    one_row: bool = False,
) -> None:
    """A convolution of `source` with a weight [oc, ic / groups, ky, kx], whose results have channels at `lanes`."""
    values = arguments(node)
    head = selector.head(node)
    rest: dict[str, Any] = {}
    if "y_scale" in values:
        scale = selector.constant(values["weight_scale"], node, "weight scale").to(torch.float64)
        terms = [scale * values["x_scale"] / values["y_scale"]]
        result, table = selector.fused_table(node)
        residual = values["residual"]
        operands = [source]
        if residual is not None:
            terms.append(real(values["residual_scale"], scale) / values["y_scale"])
        rest["requantization"] = selector.requantization(node, bias, terms)
        output = operand(selector.allocate(result, lanes), [lanes], selector.columns)
        assert not isinstance(output, str)
        operands.append(output)
        if residual is not None:
            operands.append(_aligned(selector, node, residual, lanes))
        rest["table"] = table
    else:
        operands = [source, selector.sums_operand(selector.sums(node, lanes), lanes)]
    if one_row:
        operands = [with_axes(x, (*x.axes[:-1], Axis(1, 0), x.axes[-1])) for x in operands]
    if window.is_point:
        operands = list(merged(*operands))
    source, output, *more = operands
    integers = np.ascontiguousarray(weight.numpy())
    selector.add(
        Convolution(
            **head, source=source, output=output, residual=more[0] if more else None,
            weight=integers, groups=groups, window=window, **rest,
        )
    )  # fmt: skip


def _aligned(selector: _Selector, node: Node, x: Node, lanes: int) -> Operand:
    """An operand that is read channel by channel beside sums: its channels must lie as those of results do."""
    found = selector.operand(x, [lanes], node)
    if not np.array_equal(found.places, np.arange(found.channels)):
        regrouped = _regroup(selector, node, found, selector.view(x).shape, lanes)
        found = regrouped
    return found


def _regroup(selector: _Selector, node: Node, source: Operand, shape: Sequence[int], lanes: int) -> Operand:
    """A copy of `source` whose channels lie one after another, by a product with a permutation."""
    channels = shape[lanes]
    pixels = int(np.prod(shape)) // channels
    table = np.arange(channels, dtype=np.int64)
    buffer = selector.buffer(f"{node.name} regrouped", words_of(table, selector.columns) * pixels)
    output = operand(dense(buffer, shape, lanes, table, selector.columns), [lanes], selector.columns)
    assert not isinstance(output, str)
    _permute_lanes(selector, node, source, output)
    return output


def _permute_lanes(selector: _Selector, node: Node, source: Operand, output: Operand) -> None:
    eye = np.eye(source.channels, dtype=np.int8)[:, :, None, None]
    source, output = merged(source, output)
    selector.add(
        Convolution(
            **selector.head(node), source=source, output=output, weight=eye, requantization=identity_requantization()
        )
    )


def _product(selector: _Selector, node: Node) -> None:
    values = arguments(node)
    a, b = values["a"], values["b"]
    left, right = a.meta["val"].shape, b.meta["val"].shape
    if values["a_zero"] or values["b_zero"]:
        raise Refused(node, "zero points of both operands of a product must be 0 on the array; quantise for it")
    if len(left) < 2 or len(right) != len(left) or left[:-2] != right[:-2]:
        raise Refused(node, f"operands of a product must have equal batch dims, not {list(left)} and {list(right)}")
    depth, width, rank = left[-1], right[-1], len(left)
    if 128 * 128 * depth >= 2**31:
        raise Refused(node, "its sums of products may leave 32 bits")
    source = selector.operand(a, [rank - 1], node)
    flat = np.arange(depth)
    plain = operand(selector.view(b), [rank - 1], selector.columns)
    turned = operand(selector.view(b), [rank - 2], selector.columns)
    if not np.array_equal(source.places, flat):
        source = _regroup(selector, node, source, left, rank - 1)
    if not isinstance(turned, str) and np.array_equal(turned.places, flat) and width > 1:
        weights, transposed = turned, True
    elif not isinstance(plain, str) and np.array_equal(plain.places, np.arange(width)):
        weights, transposed = plain, False
    else:
        raise Refused(node, "its second operand's words hold neither rows nor columns")
    rest: dict[str, Any] = {}
    if "y_scale" in values:
        factor = torch.tensor(values["a_scale"], dtype=torch.float64) * values["b_scale"] / values["y_scale"]
        result, rest["table"] = selector.fused_table(node)
        found = requantization(0, [factor], values["y_zero"], values["low"], values["high"])
        if isinstance(found, str):
            raise Refused(node, found)
        rest["requantization"] = found
        output = operand(selector.allocate(result, rank - 1), [rank - 1], selector.columns)
        assert not isinstance(output, str)
    else:
        output = selector.sums_operand(selector.sums(node, rank - 1), rank - 1)
    point = Axis(1, 0)
    source, output = (with_axes(x, (*x.axes[:-1], point, x.axes[-1])) for x in (source, output))
    selector.add(
        Product(
            **selector.head(node), source=source, output=output, weights=weights, transposed=transposed,
            depth=depth, width=width, **rest,
        )
    )  # fmt: skip


def _pointwise(selector: _Selector, node: Node, x: Node, other: Node | None, rest: dict[str, Any]) -> None:
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
            o if np.array_equal(o.places, np.arange(o.channels)) else _regroup(selector, node, o, shape, channels[0])
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


def _like(selector: _Selector, node: Node, shape: Sequence[int], channels: Sequence[int], like: Operand) -> View:
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


def _sum(selector: _Selector, node: Node) -> None:
    values = arguments(node)
    factors = [torch.tensor(values[f"{n}_scale"], dtype=torch.float64) / values["y_scale"] for n in "ab"]
    requantized = selector.requantization(node, -values["a_zero"], factors)
    for n in "ab":
        if not isinstance(values[n], Node) or values[n].op == "get_attr":
            raise Refused(node, "an operand is constant")
    _pointwise(selector, node, values["a"], values["b"], {"requantization": requantized})


def _requantize(selector: _Selector, node: Node) -> None:
    values = arguments(node)
    factor = torch.tensor(values["x_scale"], dtype=torch.float64) / values["y_scale"]
    requantized = selector.requantization(node, -values["x_zero"], [factor])
    _pointwise(selector, node, values["x"], None, {"requantization": requantized})


def _lookup(selector: _Selector, node: Node) -> None:
    if node in selector.done.values:
        return  # part of the layer that makes its operand
    _pointwise(selector, node, arguments(node)["x"], None, {"table": selector.table(node)})


def _pool(selector: _Selector, node: Node) -> None:
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
    one = [1] * (2 - rank)
    window = Window(
        *((a, b) for a, b in ([*one, *x] for x in (kernel, stride, dilation))),
        (0, 0, *pads) if rank == 1 else tuple(pads),  # type: ignore[arg-type]
        values["x_zero"] if average else -128,
    )
    if max(window.kernel) > 255:
        raise Refused(node, f"its windows {list(window.kernel)} must be at most 255 wide")
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


def _concatenate(selector: _Selector, node: Node) -> None:
    values, start = arguments(node), 0
    dim = values["dim"] % node.meta["val"].dim()
    parts = [part for part in values["tensors"] if part.meta["val"].dim() == node.meta["val"].dim()]
    for part in parts:
        if node in selector.done.values:
            break
        lanes = channel_dims(selector.view(part), selector.columns)
        if len(lanes) > 1:
            raise Refused(node, "its operands' words hold several dims")
        selector._allocate_whole(node, lanes[0])
    whole = selector.view(node)
    lanes = _lanes_of(selector, node)
    for part in parts:
        size = part.meta["val"].shape[dim]
        slot, view = whole.slice(dim, start, size), selector.view(part)
        start += size
        if view.buffer is slot.buffer and view.start == slot.start:
            continue
        source, output = selector.operand(part, lanes, node), operand(slot, lanes, selector.columns)
        assert not isinstance(output, str)
        if not np.array_equal(source.places, output.places) or len(source.words) != len(output.words):
            _permute_lanes(selector, node, source, output)
            continue
        source, output = merged(source, output)
        selector.add(Copy(**selector.head(node), source=source, output=output))


def _lanes_of(selector: _Selector, node: Node) -> list[int]:
    """The dim of a concatenation that holds channels."""
    view = selector.view(node)
    return channel_dims(view, selector.columns)[:1]


# views


def _same(selector: _Selector, node: Node) -> None:
    selector.done.values[node] = selector.view(node.args[0])  # type: ignore[arg-type]


def _permute(selector: _Selector, node: Node) -> None:
    view = selector.view(node.args[0])  # type: ignore[arg-type]
    selector.done.values[node] = view.permute([d % len(view.tables) for d in node.args[1]])  # type: ignore[union-attr, operator]


def _transpose(selector: _Selector, node: Node) -> None:
    view = selector.view(node.args[0])  # type: ignore[arg-type]
    dims = list(range(len(view.tables)))
    values = arguments(node)
    first, second = values.get("dim0", 0), values.get("dim1", 1)
    dims[first], dims[second] = dims[second], dims[first]
    selector.done.values[node] = view.permute(dims)


def _reshape(selector: _Selector, node: Node) -> None:
    view = selector.view(node.args[0]).reshape(node.meta["val"].shape)  # type: ignore[arg-type]
    if view is None:
        raise Refused(node, "it cuts channels that lie in padded words; no strides describe that")
    selector.done.values[node] = view


def _expand(selector: _Selector, node: Node) -> None:
    selector.done.values[node] = selector.view(node.args[0]).expand(node.meta["val"].shape)  # type: ignore[arg-type]


def _slice(selector: _Selector, node: Node) -> None:
    values = arguments(node)
    view = selector.view(values["self"])
    dim = values["dim"] % len(view.tables)
    size, start = view.shape[dim], values["start"] or 0
    start = min(max(start + (size if start < 0 else 0), 0), size)
    selector.done.values[node] = view.slice(dim, start, node.meta["val"].shape[dim], values["step"])


def _select(selector: _Selector, node: Node) -> None:
    values = arguments(node)
    view = selector.view(values["self"])
    dim = values["dim"] % len(view.tables)
    selector.done.values[node] = view.select(dim, values["index"] % view.shape[dim])


def _parts(selector: _Selector, node: Node) -> None:
    """Several results: `getitem` takes one."""


def _item(selector: _Selector, node: Node) -> None:
    source, index = node.args
    values = arguments(source)  # type: ignore[arg-type]
    view = selector.view(values["self"])
    dim = values.get("dim", 0) % len(view.tables)
    if source.target is aten.unbind.int:  # type: ignore[union-attr]
        selector.done.values[node] = view.select(dim, index)  # type: ignore[arg-type]
        return
    sizes = [value.shape[dim] for value in source.meta["val"]]  # type: ignore[union-attr]
    selector.done.values[node] = view.slice(dim, sum(sizes[:index]), sizes[index])  # type: ignore[misc, index]


Rule = Callable[[_Selector, Node], None]

LAYERS: dict[Any, Rule] = {
    fxpress.quantized_conv.default: _convolution,
    fxpress.conv_sums.default: _convolution,
    fxpress.quantized_linear.default: _linear,
    fxpress.linear_sums.default: _linear,
    fxpress.quantized_matmul.default: _product,
    fxpress.matmul_sums.default: _product,
    fxpress.quantized_add.default: _sum,
    fxpress.quantized_avg_pool.default: _pool,
    fxpress.quantized_max_pool.default: _pool,
    fxpress.requantize.default: _requantize,
    fxpress.lookup.default: _lookup,
}
"""Ops that are layers."""

SUMS = (fxpress.conv_sums.default, fxpress.linear_sums.default, fxpress.matmul_sums.default)
"""Layers with int32 results."""

MOVES: dict[Any, Rule] = {
    aten.cat.default: _concatenate,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.reshape.default: _reshape,
    aten.view.default: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.unflatten.int: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.split.Tensor: _parts,
    aten.split_with_sizes.default: _parts,
    aten.chunk.default: _parts,
    aten.unbind.int: _parts,
    operator.getitem: _item,
    aten.clone.default: _same,
    aten.contiguous.default: _same,
    aten.alias.default: _same,
}
"""Ops that move int8 values."""

RULES: dict[Any, Rule] = {**LAYERS, **MOVES}

_MAKES = tuple(op for op in LAYERS if op not in SUMS)
"""Ops whose results can be made inside a concatenation."""
