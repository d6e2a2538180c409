"""VECTOR: from accumulators or activations to activations: pool, requantise, add, look up."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ....errors import InvalidInput
from ..architecture import ACCUMULATOR_PIECES, RECORD_WORDS, Architecture, Memory, Unit
from ..timing import RECORD_CYCLES, VECTOR_LATENCY
from .base import Access, Addresses, Instruction, Level, Traffic, choice, distinct, flag, grid, number, pixel_runs, span

if TYPE_CHECKING:
    from ..simulator.memories import Machine

MULTIPLIER_LIMIT = 1 << 24  # multipliers of a record are nearer to zero than this
MOST_SHIFT = 55


class Reduce(enum.IntEnum):
    """How the words of a window become one."""

    SUM = 0
    MAX = 1


@dataclass(frozen=True, kw_only=True)
class Vector(Instruction):
    """activations[output + p*output_stride_pixel + b] = y for b < blocks (outer), p < pixels (inner).

    x is the sum or maximum, modulo 2^32, of the words input + b*stride_block + row*stride_row + column*stride_pixel +
    i*stride_ky + j*stride_kx, for i < ky, j < kx, row = p / width, column = p % width. Without `requantize` y = x. With
    it, the record of bias, multiplier, residual multiplier and shift s is at parameter + 16*b, and
    y = clip(zero + ((x + bias)*multiplier + (residual - residual_zero)*residual_multiplier + (1 << (s-1)) >> s),
    low, high), where x + bias is modulo 2^32, products have 64 bits, and residual is the word residual_input +
    p*residual_stride_pixel + b of the activations. Without `add_residual` its term is absent. With `use_table`,
    y = table[y + 128] in the end.
    """

    opcode: ClassVar[int] = 3
    mnemonic: ClassVar[str] = "vector"
    unit: ClassVar[Unit] = Unit.VECTOR

    source: Memory = choice(3, Memory.ACCUMULATORS, "accumulators or activations")  # noqa: RUF009
    input: int = number(24, "word of the first input")
    output: int = number(24, "activation word of the first output")
    residual_input: int = number(24, "activation word of the first residual")
    parameter: int = number(24, "parameter word of the first block's record")
    pixels: int = number(16, "outputs of a block", default=1)
    width: int = number(16, "outputs in a row", default=1)
    blocks: int = number(16, "blocks of C channels", default=1)
    ky: int = number(8, "rows of the window", default=1)
    kx: int = number(8, "columns of the window", default=1)
    stride_ky: int = number(24, "input words from one window row to the next", signed=True)
    stride_kx: int = number(24, "input words from one window column to the next", signed=True)
    stride_pixel: int = number(24, "input words from one output of a row to the next", signed=True)
    stride_row: int = number(24, "input words from one row's first output to the next row's", signed=True)
    stride_block: int = number(24, "input words from one block to the next", signed=True)
    residual_stride_pixel: int = number(24, "activation words from one residual to the next")
    output_stride_pixel: int = number(24, "activation words from one output to the next")
    reduce: Reduce = choice(1, Reduce.SUM, "sum or maximum over the window")  # noqa: RUF009
    requantize: bool = flag("bias, multiply, shift and clip by the block's record")
    add_residual: bool = flag("add a second operand before the shift")
    use_table: bool = flag("replace each result by a table's entry")
    table: int = number(4, "which table")
    zero: int = number(8, "zero point of the result", signed=True)
    low: int = number(8, "least result", signed=True, default=-128)
    high: int = number(8, "greatest result", signed=True, default=127)
    residual_zero: int = number(8, "zero point of the residual", signed=True)

    @property
    def taps(self) -> int:
        """Words of a window."""
        return self.ky * self.kx

    def input_levels(self, rows: int, columns: int) -> tuple[Level, ...]:
        """The nest of inputs of `rows` times `columns` outputs of each block, outermost first."""
        window = ((self.ky, self.stride_ky), (self.kx, self.stride_kx))
        return (self.blocks, self.stride_block), (rows, self.stride_row), (columns, self.stride_pixel), *window

    @property
    def output_levels(self) -> tuple[Level, Level]:
        """The nest of outputs, outermost first."""
        return (self.blocks, 1), (self.pixels, self.output_stride_pixel)

    @property
    def residual_levels(self) -> tuple[Level, Level]:
        """The nest of residuals, outermost first."""
        return (self.blocks, 1), (self.pixels, self.residual_stride_pixel)

    def check(self, architecture: Architecture) -> None:
        self.check_fields(architecture)
        if self.source not in (Memory.ACCUMULATORS, Memory.ACTIVATIONS):
            self.refuse("source", "accumulators or activations")
        self.check_counts("pixels", "width", "blocks", "ky", "kx")
        if not self.requantize:
            if self.source is Memory.ACCUMULATORS:
                self.refuse("requantize", "True for accumulators", "they do not fit in a byte")
            if self.taps > 1 and self.reduce is Reduce.SUM:
                self.refuse("requantize", "True for a sum of several words", "it does not fit in a byte")
            if self.add_residual:
                self.refuse("requantize", "True when a residual is added")
        if self.low > self.high:
            self.refuse("low", f"at most high={self.high}")
        if self.use_table and self.table >= architecture.tables:
            self.refuse("table", f"less than {architecture.tables}, the number of tables")
        if not distinct(*self.output_levels):
            self.refuse("output_stride_pixel", f"at least blocks={self.blocks}, so that no word is written twice")
        for first, rows, columns in pixel_runs(self.pixels, self.width):
            low, high = span(self.input + first * self.stride_row, *self.input_levels(rows, columns))
            self.check_inside("input", self.source, low, high, architecture)
        self.check_inside("output", Memory.ACTIVATIONS, *span(self.output, *self.output_levels), architecture)
        if self.add_residual:
            residuals = span(self.residual_input, *self.residual_levels)
            self.check_inside("residual_input", Memory.ACTIVATIONS, *residuals, architecture)
        if self.requantize:
            records = span(self.parameter, (self.blocks, RECORD_WORDS), words=RECORD_WORDS)
            self.check_inside("parameter", Memory.PARAMETERS, *records, architecture)
        self._check_in_place()

    def _check_in_place(self) -> None:
        """An output may replace the input or residual of its own pixel and block, and nothing else that is read."""
        outputs = grid(self.output, *self.output_levels)
        read = [("residual_input", grid(self.residual_input, *self.residual_levels))] if self.add_residual else []
        if self.source is Memory.ACTIVATIONS:
            read.append(("input", self.inputs()))
        for name, addresses in read:
            if addresses.min() > outputs.max() or addresses.max() < outputs.min():
                continue
            shared = np.isin(addresses, outputs)
            if addresses.size == outputs.size:
                shared &= addresses != outputs
            if shared.any():
                word = addresses[shared.argmax()]
                self.refuse(name, f"such that word {word} is not read for one output and written as another")

    def execute(self, machine: Machine) -> None:
        columns = machine.architecture.columns
        values = np.empty((self.blocks, self.pixels, columns), np.int32)
        for first, rows, width in pixel_runs(self.pixels, self.width):
            levels = self.input_levels(rows, width)
            view = machine.view(self.source, self.input + first * self.stride_row, *levels)
            taps = view.reshape(self.blocks, rows * width, self.taps, columns)
            begin = first * self.width
            reduced = taps.max(2) if self.reduce is Reduce.MAX else taps.sum(2, dtype=np.int32)
            values[:, begin : begin + rows * width] = reduced
        results = self._requantized(values, machine) if self.requantize else values
        if self.use_table:
            words = machine.architecture.table_words
            table = machine.view(Memory.TABLES, self.table * words, (words, 1))
            results = table.reshape(-1)[results + 128]
        machine.view(Memory.ACTIVATIONS, self.output, *self.output_levels)[...] = results

    def _requantized(self, values: NDArray[np.int32], machine: Machine) -> NDArray[np.int64]:
        columns = machine.architecture.columns
        words = machine.view(Memory.PARAMETERS, self.parameter, (self.blocks, RECORD_WORDS), words=RECORD_WORDS)
        numbers = np.ascontiguousarray(words[:, : 12 * columns]).view("<i4").reshape(self.blocks, 3, 1, columns)
        bias, multiplier, residual_multiplier = numbers[:, 0], numbers[:, 1].astype(np.int64), numbers[:, 2]
        shift = words[:, None, 12 * columns : 13 * columns].astype(np.int64)
        used = np.concatenate((multiplier, residual_multiplier)) if self.add_residual else multiplier
        if np.abs(used).max() >= MULTIPLIER_LIMIT:
            worst = used.flat[np.abs(used).argmax()]
            raise InvalidInput(f"multipliers of a record must be between -2^24 and 2^24, not {worst}")
        if shift.min() < 1 or shift.max() > MOST_SHIFT:
            raise InvalidInput(f"shifts of a record must be in 1..{MOST_SHIFT}, not {shift.min()}..{shift.max()}")
        total: NDArray[np.int64] = (values + bias).astype(np.int64) * multiplier
        if self.add_residual:
            residual = machine.view(Memory.ACTIVATIONS, self.residual_input, *self.residual_levels)
            total += (residual.astype(np.int64) - self.residual_zero) * residual_multiplier
        total += np.int64(1) << (shift - 1)
        total >>= shift
        total += self.zero
        np.clip(total, self.low, self.high, out=total)
        return total

    def done_cycles(self, architecture: Architecture) -> int:
        reads = self.taps + (self.add_residual and self.source is Memory.ACTIVATIONS)
        passes = architecture.columns // architecture.vector_lanes
        record = RECORD_CYCLES if self.requantize else 0
        return self.blocks * (record + self.pixels * reads * passes) + VECTOR_LATENCY

    def issue_cycles(self, architecture: Architecture) -> int:
        return self.done_cycles(architecture) + 1

    def traffic(self, architecture: Architecture) -> Traffic:
        columns = architecture.columns
        results = self.blocks * self.pixels * columns
        found: Traffic = {(Memory.ACTIVATIONS, "write"): results, (Memory.ACTIVATIONS, "read"): 0}
        size = ACCUMULATOR_PIECES if self.source is Memory.ACCUMULATORS else 1
        found[self.source, "read"] = results * self.taps * size
        if self.add_residual:
            found[Memory.ACTIVATIONS, "read"] += results
        if self.requantize:
            found[Memory.PARAMETERS, "read"] = self.blocks * RECORD_CYCLES * columns
        if self.use_table:
            found[Memory.TABLES, "read"] = results
        return found

    def inputs(self) -> Addresses:
        """Addresses of the inputs, window by window, in the order of the outputs."""
        runs = [
            grid(self.input + first * self.stride_row, *self.input_levels(rows, columns)).reshape(self.blocks, -1)
            for first, rows, columns in pixel_runs(self.pixels, self.width)
        ]
        return np.concatenate(runs, 1).reshape(-1)

    def accesses(self, architecture: Architecture) -> list[Access]:
        found = [Access(self.source, self.inputs(), write=False)]
        if self.add_residual:
            residuals = grid(self.residual_input, *self.residual_levels)
            found.append(Access(Memory.ACTIVATIONS, residuals, write=False))
        if self.requantize:
            records = grid(self.parameter, (self.blocks, RECORD_WORDS), (RECORD_CYCLES, 1))
            found.append(Access(Memory.PARAMETERS, records, write=False))
        if self.use_table:
            entries = grid(self.table * architecture.table_words, (architecture.table_words, 1))
            found.append(Access(Memory.TABLES, entries, write=False))
        return [*found, Access(Memory.ACTIVATIONS, grid(self.output, *self.output_levels), write=True)]
