"""Softmax and its logarithm over one dimension of a strided view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ...tvm.kernels import vmath
from ...tvm.kernels.base import Expr, Operand
from .base import CudaKernel, Launch, Memory, Place
from .rows import Row, Rows, Sharing


@dataclass(frozen=True)
class Softmax(CudaKernel):
    """y = softmax(x), or its `log`, of each row. Computed in float32; a row of -inf gives NaN, as in PyTorch."""

    name: ClassVar[str] = "softmax"
    x: Rows
    y: Rows
    log: bool = False
    vector: int = 1

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", self.x.dtype), Operand("y", self.y.dtype, write=True)

    def flops(self) -> int:
        return 20 * self._sharing.count * self.x.size

    def describe(self) -> str:
        return f"{'log-' if self.log else ''}softmax {self._sharing.count}x{self.x.size}, {self._sharing.threads} a row"

    @property
    def _sharing(self) -> Sharing:
        return Sharing.of(self.x, self.vector)

    def launch(self) -> Launch:
        return self._sharing.launch()

    def emit(self, at: Place, x: Memory, y: Memory) -> None:
        if not self._sharing.count * self.x.size:
            B.evaluate(B.int32(0))
            return
        row = Row(self._sharing, self.x, at, x)
        top = row.total(float("-inf"), lambda value: value, vmath.maximum)
        total = row.total(0.0, lambda value: vmath.exp(vmath.hold(value - top)), lambda a, b: a + b)
        last = vmath.hold(vmath.log(total) if self.log else vmath.constant(1.0, "float32") / total)

        def result(value: Expr, index: Expr) -> Expr:
            shifted = vmath.hold(value - top)
            return shifted - last if self.log else vmath.exp(shifted) * last

        row.write(y, self.y, result)
