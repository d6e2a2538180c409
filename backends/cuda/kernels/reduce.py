"""Reductions of strided views to one number a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ...tvm.kernels import vmath
from ...tvm.kernels.base import Expr, Operand
from .base import CudaKernel, Launch, Memory, Place, when
from .rows import Combine, Row, Rows, Sharing


@dataclass(frozen=True)
class Reduction:
    """What is combined, from which start, and what is made of the total of `n` elements."""

    start: float
    combine: Combine
    value: Callable[[Expr], Expr] = lambda x: x
    finish: Callable[[Expr, int], Expr] = lambda total, n: total


def _add(a: Expr, b: Expr) -> Expr:
    return a + b


REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction(0.0, _add),
    "mean": Reduction(0.0, _add, finish=lambda total, n: total * vmath.constant(1.0 / n, "float32")),
    "prod": Reduction(1.0, lambda a, b: a * b),
    "max": Reduction(-math.inf, vmath.maximum),
    "min": Reduction(math.inf, vmath.minimum),
    "norm1": Reduction(0.0, _add, vmath.absolute),
    "norm2": Reduction(0.0, _add, vmath.square, lambda total, n: vmath.sqrt(total)),
    "norm_inf": Reduction(0.0, vmath.maximum, vmath.absolute),
}


@dataclass(frozen=True)
class Reduce(CudaKernel):
    """y[row] = the reduction of the row, computed in float32. `y_strides` are those of the rows."""

    name: ClassVar[str] = "reduce"
    op: str
    x: Rows
    y_strides: tuple[int, ...]
    dtype: str
    vector: int = 1

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", self.x.dtype), Operand("y", self.dtype, write=True)

    def flops(self) -> int:
        return self._sharing.count * self.x.size

    def describe(self) -> str:
        return f"{self.op} {self._sharing.count}x{self.x.size}, {self._sharing.threads} threads a row"

    @property
    def _sharing(self) -> Sharing:
        return Sharing.of(self.x, self.vector)

    def launch(self) -> Launch:
        return self._sharing.launch()

    def emit(self, at: Place, x: Memory, y: Memory) -> None:
        if not self._sharing.count * self.x.size:
            B.evaluate(B.int32(0))
            return
        reduction = REDUCTIONS[self.op]
        row = Row(self._sharing, self.x, at, x)
        total = vmath.hold(row.total(reduction.start, reduction.value, reduction.combine))
        place = Rows(self.x.shape, 1, self.y_strides).start(row.number, 1)
        first = (at.lane if self._sharing.rows > 1 else at.thread) == 0
        done = first if row.exists is True else first & row.exists

        def put() -> None:
            y[place] = vmath.from_float32(vmath.hold(reduction.finish(total, self.x.size)), self.dtype)

        when(done, put)
