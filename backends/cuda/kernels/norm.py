"""Layer norm and RMS norm. Mean and variance are taken in two passes, which is accurate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ...tvm.kernels import vmath
from ...tvm.kernels.base import Expr, Operand
from .base import CudaKernel, Launch, Memory, Place
from .rows import Row, Rows, Sharing


@dataclass(frozen=True)
class LayerNorm(CudaKernel):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias of each row, computed in float32.

    `rms` leaves out the mean. `weight` and `bias` are dtypes where there are such operands, of an element each.
    """

    name: ClassVar[str] = "layer-norm"
    x: Rows
    y: Rows
    eps: float
    weight: str | None = None
    bias: str | None = None
    rms: bool = False
    vector: int = 1

    def operands(self) -> tuple[Operand, ...]:
        given = [Operand(name, dtype) for name, dtype in (("weight", self.weight), ("bias", self.bias)) if dtype]
        return Operand("x", self.x.dtype), *given, Operand("y", self.y.dtype, write=True)

    def flops(self) -> int:
        return 6 * self._sharing.count * self.x.size

    def describe(self) -> str:
        kind = "rms" if self.rms else "layer"
        return f"{kind}-norm {self._sharing.count}x{self.x.size}, {self._sharing.threads} threads a row"

    @property
    def _sharing(self) -> Sharing:
        return Sharing.of(self.x, self.vector)

    def launch(self) -> Launch:
        return self._sharing.launch()

    def emit(self, at: Place, *operands: Memory) -> None:
        if not self._sharing.count * self.x.size:
            B.evaluate(B.int32(0))
            return
        given = dict(zip((operand.name for operand in self.operands()), operands, strict=True))
        row = Row(self._sharing, self.x, at, given["x"])
        share = vmath.constant(1.0 / self.x.size, "float32")
        mean = vmath.constant(0.0, "float32")
        if not self.rms:
            mean = vmath.hold(row.total(0.0, lambda value: value, lambda a, b: a + b) * share)
        squares = row.total(0.0, lambda value: vmath.square(self._centred(value, mean)), lambda a, b: a + b)
        scale = vmath.hold(vmath.rsqrt(vmath.hold(squares * share + vmath.constant(self.eps, "float32"))))

        def result(value: Expr, index: Expr) -> Expr:
            value = self._centred(value, mean) * scale
            if self.weight is not None:
                value = value * vmath.to_float32(given["weight"][index])
            if self.bias is not None:
                value = value + vmath.to_float32(given["bias"][index])
            return value

        row.write(given["y"], self.y, result)

    def _centred(self, value: Expr, mean: Expr) -> Expr:
        return value if self.rms else vmath.opaque(value) - mean
