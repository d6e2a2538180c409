"""The recurrent half of GRU and LSTM layers: all time steps in one kernel call.

A layer is one `Linear` over all steps, which gives the input's share of every gate, and one `Recurrent`, which adds the
state's share and walks through time. Both directions of a bidirectional layer are one call, on different cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from . import vmath
from .base import Access, Expr, Kernel, Operand, Registers, broadcast, scratch
from .gemm import accumulate, best_rows, counts, fits, part, rows_cycles, tasks, tiles
from .linear import pack

GATES = {"gru": 3, "lstm": 4}  # in PyTorch's order: reset, update, new; input, forget, cell, output

_PARALLEL_BYTES = 512 * 1024  # a step that reads more weights than this is worth a parallel launch


@dataclass(frozen=True)
class Steps:
    """Where a [step, batch, column] view lies: strides in elements; columns are dense."""

    step: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class Recurrent(Kernel):
    """One layer's walk through time, in `directions` directions of which the second is reversed.

    Operands: gates [steps, batch, directions * G * hidden] (input's share, with its bias), weight as `pack` gives it,
    bias [directions, G * hidden] if `bias`, h0 and for LSTM c0 [directions, batch, hidden] if `initial` (else zeros),
    then the outputs y [steps, batch, directions * hidden], h [directions, batch, hidden] and for LSTM c.
    G is 3 for GRU, 4 for LSTM.
    """

    name: ClassVar[str] = "recurrent"

    kind: str
    directions: int
    steps: int
    batch: int
    hidden: int
    gates: Steps
    y: Steps
    bias: bool
    initial: bool
    lanes: int
    tile_rows: int
    tile_vectors: int
    split: str  # what the cores share: "batch" (rows of the batch, each walks alone) or "units" (of the hidden state)

    @property
    def width(self) -> int:
        """Hidden units of one panel of the packed weight."""
        return self.lanes * self.tile_vectors

    @property
    def panels(self) -> int:
        """Panels of the packed weight of one direction."""
        return -(-self.hidden // self.width)

    def pack(self, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        """Reorder weight_hh [G * hidden, hidden] of each direction into [direction][panel][hidden][G][width]."""
        count = GATES[self.kind]
        packed = []
        for weight in weights:
            padded = weight.new_zeros(count, self.panels * self.width, self.hidden)
            padded[:, : self.hidden] = weight.reshape(count, self.hidden, self.hidden)
            units = padded.reshape(count, self.panels, self.width, self.hidden).transpose(0, 1)
            packed.append(pack(units.reshape(-1, self.hidden), count * self.width))
        return torch.stack(packed)

    def operands(self) -> tuple[Operand, ...]:
        states = ["h", "c"] if self.kind == "lstm" else ["h"]
        inputs = ["gates", "weight"] + ["bias"] * self.bias + [f"{state}0" for state in states] * self.initial
        read = tuple(Operand(name, "float32") for name in inputs)
        return read + tuple(Operand(name, "float32", write=True) for name in ["y", *states])

    def flops(self) -> int:
        return 2 * self.directions * self.steps * self.batch * GATES[self.kind] * self.hidden * self.hidden

    def describe(self) -> str:
        return f"{self.kind} {self.tile_rows}x{self.tile_vectors}x{GATES[self.kind]}, cores share {self.split}"

    def emit(self, *operands: Access) -> None:
        named = dict(zip((op.name for op in self.operands()), operands, strict=True))
        if self.split == "units":
            state = scratch(3 * self.directions * self.batch * self.hidden)
            with B.serial(self.directions) as direction:
                self._walk(named, state.shifted(direction * (3 * self.batch * self.hidden)), direction, 0, self.batch)
            return
        blocks = -(-self.batch // self.tile_rows)
        with tasks(self.directions * blocks, self.flops()) as task:
            state = scratch(3 * self.tile_rows * self.hidden)
            direction, block = B.bind(task // blocks), B.bind(task % blocks)
            first = B.bind(block * self.tile_rows)
            part(block, self.batch, self.tile_rows, lambda rows: self._walk(named, state, direction, first, rows))

    def _walk(self, named: dict[str, Access], state: Access, direction: Expr, first: Expr | int, rows: int) -> None:
        """All steps for `rows` rows of the batch; `state` holds h of even steps, h of odd steps, and c."""
        size = rows * self.hidden
        cell = state.shifted(2 * size)
        outer = B.bind((direction * self.batch + first) * self.hidden)
        self._copy(size, state, B.int32(0), named["h0"] if self.initial else None, outer)
        if self.kind == "lstm":
            self._copy(size, cell, B.int32(0), named["c0"] if self.initial else None, outer)
        with B.serial(self.steps) as step:
            time = B.bind(step + direction * (self.steps - 1 - 2 * step))
            views = {
                "h": state.shifted(step % 2 * size),
                "next": state.shifted((step + 1) % 2 * size),
                "c": cell,
                "gates": named["gates"].shifted(
                    time * self.gates.step + first * self.gates.batch + direction * (GATES[self.kind] * self.hidden)
                ),
                "y": named["y"].shifted(time * self.y.step + first * self.y.batch + direction * self.hidden),
                "weight": named["weight"].shifted(
                    direction * (self.panels * self.hidden * GATES[self.kind] * self.width)
                ),
            }
            if self.bias:
                views["bias"] = named["bias"].shifted(direction * (GATES[self.kind] * self.hidden))

            def panel(first: Expr, units: int) -> None:
                tiles(rows, self.tile_rows, lambda row, rows: self._tile(views, first, units, row, rows))

            if self.split == "units":
                with B.parallel(self.panels) as index:
                    unit = B.bind(index * self.width)
                    part(index, self.hidden, self.width, lambda units: panel(unit, units))
            else:
                tiles(self.hidden, self.width, panel)
        self._copy(size, named["h"], outer, state, B.int32(self.steps % 2 * size))
        if self.kind == "lstm":
            self._copy(size, named["c"], outer, cell, B.int32(0))

    def _copy(self, size: int, to: Access, at: Expr, source: Access | None, start: Expr) -> None:
        def body(first: Expr, length: int) -> None:
            count = None if length == self.lanes else length
            zero = broadcast(B.float32(0), self.lanes)
            value = zero if source is None else source.load(start + first, self.lanes, count=count)
            to.store(at + first, value, self.lanes, count=count)

        tiles(size, self.lanes, body)

    def _tile(self, views: dict[str, Access], first: Expr, units: int, row: Expr, rows: int) -> None:
        """One step of `rows` rows and `units` hidden units, all their gates in registers together."""
        gates, lanes, valid = GATES[self.kind], self.lanes, counts(units, self.lanes)
        vectors = len(valid)
        panel = views["weight"].shifted(first * (self.hidden * gates))
        h = views["h"].shifted(row * self.hidden)
        sums = Registers(rows * gates * vectors, lanes)

        def slot(i: int, gate: int, j: int) -> int:
            return (i * gates + gate) * vectors + j

        def shared(i: int, gate: int, j: int) -> Expr:
            at = (row + i) * self.gates.batch + first + (gate * self.hidden + j * lanes)
            return views["gates"].load(at, lanes, count=valid[j])

        for i in range(rows):
            for gate in range(gates):
                for j in range(vectors):
                    value = broadcast(B.float32(0), lanes)
                    if self.bias:
                        value = views["bias"].load(first + (gate * self.hidden + j * lanes), lanes, count=valid[j])
                    if (self.kind, gate) != ("gru", 2):  # the reset gate scales only the state's share of "new"
                        value = shared(i, gate, j) + value
                    sums[slot(i, gate, j)] = value
        accumulate(
            sums,
            rows,
            gates * vectors,
            self.hidden,
            lambda i, k: h.load(i * self.hidden + k),
            lambda column, k: panel.load(
                k * (gates * self.width) + (column // vectors * self.width + column % vectors * lanes), lanes
            ),
        )
        for i in range(rows):
            for j in range(vectors):
                at = B.bind((row + i) * self.hidden + first + j * lanes)
                values = [B.bind(sums[slot(i, gate, j)]) for gate in range(gates)]
                if self.kind == "gru":
                    reset, update = (vmath.sigmoid(value) for value in values[:2])
                    new = vmath.tanh(B.bind(shared(i, 2, j) + reset * values[2]))
                    value = new + update * (views["h"].load(at, lanes, count=valid[j]) - new)
                else:
                    keep, forget, emit = (vmath.sigmoid(values[gate]) for gate in (0, 1, 3))
                    old = views["c"].load(at, lanes, count=valid[j])
                    cell = B.bind(forget * old + keep * vmath.tanh(values[2]))
                    views["c"].store(at, cell, lanes, count=valid[j])
                    value = emit * vmath.tanh(cell)
                value = B.bind(value)
                views["next"].store(at, value, lanes, count=valid[j])
                views["y"].store((row + i) * self.y.batch + first + j * lanes, value, lanes, count=valid[j])

    @classmethod
    def choose(
        cls,
        kind: str,
        *,
        directions: int,
        steps: int,
        batch: int,
        hidden: int,
        target: CpuTarget,
        gates: Steps | None = None,
        y: Steps | None = None,
        bias: bool = True,
        initial: bool = True,
    ) -> Recurrent:
        """The kernel with its tile chosen for `target`; views are dense with the step outermost where not given."""
        lanes, registers, count = target.vector.lanes, target.vector.registers, GATES[kind]
        vectors = -(-hidden // lanes)

        def cycles(option: int) -> float:
            rows = best_rows(batch, option * count, registers)
            whole, tail = divmod(vectors, option)
            rest = rows_cycles(batch, rows, tail * count) if tail else 0.0
            return whole * rows_cycles(batch, rows, option * count) + rest

        options = [v for v in range(1, vectors + 1) if v == 1 or fits(1, v * count, registers)]
        tile_vectors = min(options, key=cycles)
        tile_rows = best_rows(batch, tile_vectors * count, registers)
        alone = directions * -(-batch // tile_rows) < target.cores
        heavy = count * hidden * hidden * 4 > _PARALLEL_BYTES
        columns = directions * count * hidden
        return cls(
            kind=kind,
            directions=directions,
            steps=steps,
            batch=batch,
            hidden=hidden,
            gates=gates or Steps(batch * columns, columns),
            y=y or Steps(batch * directions * hidden, directions * hidden),
            bias=bias,
            initial=initial,
            lanes=lanes,
            tile_rows=tile_rows,
            tile_vectors=tile_vectors,
            split="units" if alone and heavy else "batch",
        )
