"""Softmax and log-softmax over one dimension of a strided view."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from . import vmath
from .base import Access, Expr, Kernel, Operand, Registers, broadcast, scratch
from .loops import LAUNCH_COST, Axis, collapse, nest, offset_of, run, vectors
from .reduce import across
from .sums import CHUNK, UNROLL, sum_of
from .vmath import constant, hold, like, opaque

_WORK = 20  # cost of an element in additions


@dataclass(frozen=True)
class Softmax(Kernel):
    """y = softmax(x) (or its logarithm) over dimension `dim`; float32 views of one shape with their own
    strides.

    A row of only -inf gives NaN, as in PyTorch. Use `softmax_kernel` to make one for a target.
    """

    name: ClassVar[str] = "softmax"
    shape: tuple[int, ...]
    dim: int
    strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    log: bool
    lanes: int
    threads: int

    def __post_init__(self) -> None:
        if not 0 <= self.dim < len(self.shape):
            raise InvalidInput(f"softmax dimension must be within 0 to {len(self.shape) - 1}, not {self.dim}")

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", "float32"), Operand("y", "float32", write=True)

    def flops(self) -> int:
        return _WORK * math.prod(self.shape)

    def describe(self) -> str:
        return f"{'log-' if self.log else ''}softmax {'x'.join(map(str, self.shape))} over {self.dim}"

    def emit(self, x: Access, y: Access) -> None:
        if 0 in self.shape:
            B.evaluate(B.int32(0))
            return
        kept = [d for d in range(len(self.shape)) if d != self.dim]
        axes = collapse(
            [self.shape[d] for d in kept],
            [[self.out_strides[d] for d in kept], [self.strides[d] for d in kept]],
        )
        along = Axis(self.shape[self.dim], (self.out_strides[self.dim], self.strides[self.dim]))
        threads = self.threads if self.flops() >= LAUNCH_COST else 1
        if along.strides == (1, 1) or axes[-1].size == 1:
            with nest(axes, threads) as where:
                y_row, x_row = (offset_of(where, axes, k) for k in (0, 1))
                self._emit_row(x, y, x_row, y_row, along)
            return
        *outer, row = axes
        with vectors(row, outer, self.lanes, threads) as (lanes, (y_row, x_row), _):
            self._emit_columns(x, y, x_row, y_row, along, lanes, row)

    def _emit_row(self, x: Access, y: Access, x_row: Expr, y_row: Expr, along: Axis) -> None:
        # one row, vectors along it
        lanes, (y_step, x_step) = min(self.lanes, 1 << (along.size.bit_length() - 1)), along.strides
        maxima, one = Registers(UNROLL, lanes), Registers(1, 1)
        for slot in range(UNROLL):
            maxima[slot] = constant(-math.inf, "float32", lanes)
        one[0] = constant(-math.inf, "float32")

        def find_maximum(start: Expr, width: int, slot: int) -> None:
            value = x.load(x_row + start * x_step, width, x_step)
            if width == lanes:
                maxima[slot] = B.max(value, maxima[slot])  # skips NaN, which reaches the sum anyway
            else:
                one[0] = B.max(across(B.max, hold(value)), one[0])

        run(along.size, lanes, find_maximum, UNROLL)
        highest = hold(B.max(one[0], across(B.max, hold(_fold(B.max, maxima)))))

        def exponential(start: Expr, width: int) -> Expr:
            value = x.load(x_row + start * x_step, width, x_step)
            e = hold(vmath.exp_nonpositive(hold(value - broadcast(highest, width))))
            if not self.log:
                y.store(y_row + start * y_step, e, width, y_step)
            return e

        total = sum_of(along.size, self.lanes, exponential)
        factor = hold(vmath.log(total) if self.log else like(total, 1) / total)

        def finish(start: Expr, width: int, slot: int) -> None:
            if self.log:
                value = x.load(x_row + start * x_step, width, x_step)
                value = opaque(value - broadcast(highest, width)) - broadcast(factor, width)
            else:
                value = y.load(y_row + start * y_step, width, y_step) * broadcast(factor, width)
            y.store(y_row + start * y_step, value, width, y_step)

        run(along.size, lanes, finish)

    def _emit_columns(self, x: Access, y: Access, x_row: Expr, y_row: Expr, along: Axis, lanes: int, row: Axis) -> None:
        # `lanes` rows at once, which lie side by side; vectors of two threads may overlap, so y is only ever
        # written
        y_step, x_step = along.strides
        state, row_memory = Registers(3, lanes), None if self.log else scratch(along.size * lanes)
        state[0], state[1] = constant(-math.inf, "float32", lanes), constant(0, "float32", lanes)
        with B.serial(along.size) as i:
            state[0] = B.max(x.load(x_row + i * x_step, lanes, row.strides[1]), state[0])
        highest = hold(state[0])
        with B.serial(-(-along.size // CHUNK)) as chunk:
            first = B.bind(chunk * CHUNK)
            state[2] = constant(0, "float32", lanes)
            with B.serial(B.min(along.size - first, CHUNK)) as step:
                i = B.bind(first + step)
                e = vmath.exp_nonpositive(hold(x.load(x_row + i * x_step, lanes, row.strides[1]) - highest))
                if row_memory is not None:
                    row_memory.store(i * lanes, e, lanes)
                state[2] = state[2] + e
            state[1] = state[1] + state[2]
        factor = hold(vmath.log(state[1]) if self.log else constant(1, "float32", lanes) / state[1])
        with B.serial(along.size) as i:
            if row_memory is None:
                value = opaque(x.load(x_row + i * x_step, lanes, row.strides[1]) - highest) - factor
            else:
                value = row_memory.load(i * lanes, lanes) * factor
            y.store(y_row + i * y_step, value, lanes, row.strides[0])


def _fold(join: Callable[[Expr, Expr], Expr], registers: Registers) -> Expr:
    value = registers[0]
    for slot in range(1, UNROLL):
        value = join(value, registers[slot])
    return value


def softmax_kernel(
    shape: Sequence[int],
    dim: int,
    strides: Sequence[int],
    out_strides: Sequence[int],
    target: CpuTarget,
    log: bool = False,
) -> Softmax:
    """Make a softmax for a target; see Softmax for the arguments."""
    lanes = target.vector.lanes
    return Softmax(tuple(shape), dim, tuple(strides), tuple(out_strides), log, lanes, target.cores)
