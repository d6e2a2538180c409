"""What a rule of selection works with: where values lie, memory for new ones, the layers so far."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from ....arguments import arguments
from ....ops import fxpress
from ....printer import op_name
from ....program import Program
from ..architecture import Architecture
from ..layout import Windows
from .constants import requantization
from .layers import Layer, Requantization, Weights
from .views import Buffer, Operand, Table, View, dense, dense_tables, operand, words_of

aten = torch.ops.aten

MAKES = tuple(
    getattr(fxpress, name).default
    for name in (
        "quantized_conv", "quantized_linear", "quantized_matmul", "quantized_add", "quantized_avg_pool",
        "quantized_max_pool", "requantize", "lookup",
    )
)  # fmt: skip
"""Ops whose results can be made inside a concatenation."""


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


class Selector:
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
                self.allocate_whole(whole, lanes)
            slot = self.view(whole).slice(dim, start, shape[dim])
            offsets = slot.tables[lanes] - slot.tables[lanes][0]
            if slot.start % self.columns == 0 and np.array_equal(offsets, canonical):
                self.done.values[node] = slot
                return slot
        table = canonical if table is None else table
        words = words_of(table, self.columns) * int(np.prod([n for d, n in enumerate(shape) if d != lanes]))
        self.done.values[node] = dense(self.buffer(node.name, words), shape, lanes, table, self.columns)
        return self.view(node)

    def allocate_whole(self, node: Node, lanes: int) -> None:
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
                if part in self.inside and part not in self._slots and part.target in MAKES:
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

        direct, packed = taps * -(-ic // self.columns), -(-taps * ic // self.columns)  # words of a result
        per_word = positions * self.columns // self.rows * -(-oc // self.columns)
        plainly = max(per_word * direct, source * -(-ic // self.columns) * self.beats)
        return bool(max(per_word * packed, positions * packed * self.beats) < plainly)

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
