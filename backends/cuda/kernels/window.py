"""What slides over each channel on its own: depthwise convolutions and pools of channels-last images.

A thread computes a few adjacent channels of one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script import builder as B

from ...tvm.kernels import vmath
from ...tvm.kernels.base import Expr, Operand
from .base import CudaKernel, Launch, Memory, Place, local, when
from .epilogue import Epilogue, Matrices
from .sources import ImageSource

_THREADS = 128


@dataclass(frozen=True)
class Window(CudaKernel):
    """y[pixel, channel] = epilogue(what `op` makes of the channel's window of x).

    "depthwise" adds up products with a weight [*kernel, channels] in the dtype of x. "mean" divides by `divisor`, or,
    where that is 0, by how many pixels of the window exist. `y` are rows of pixels. All addresses of pixels, in x, y
    and the residual, are multiples of `vector` elements.
    """

    name: ClassVar[str] = "window"
    op: str
    batch: int
    x: ImageSource
    dtype: str
    y: Matrices
    epilogue: Epilogue
    vector: int = 1
    divisor: int = 0

    def operands(self) -> tuple[Operand, ...]:
        weight = [Operand("weight", self.dtype)] if self.op == "depthwise" else []
        return Operand("x", self.dtype), *weight, *self.epilogue.operands()

    def flops(self) -> int:
        return 2 * self.batch * math.prod(self.x.out) * self.x.channels * math.prod(self.x.kernel)

    def describe(self) -> str:
        size = "x".join(map(str, (self.batch, *self.x.out, self.x.channels)))
        return f"{self.op} {'x'.join(map(str, self.x.kernel))} {size} by {self.vector}"

    @property
    def _groups(self) -> int:
        return self.batch * math.prod(self.x.out) * (self.x.channels // self.vector)

    def launch(self) -> Launch:
        return Launch((max(-(-self._groups // _THREADS), 1), 1, 1), _THREADS)

    def emit(self, at: Place, *operands: Memory) -> None:
        group = B.bind(at.block[0] * _THREADS + at.thread)
        when(self._groups % _THREADS == 0 or group < self._groups, lambda: self._pixel(group, *operands))

    def _pixel(self, group: Expr, x: Memory, *rest: Memory) -> None:
        across, vector = self.x.channels // self.vector, self.vector
        pixel, channels = B.bind(group // across), B.bind(group % across)
        (out_height, out_width), (n, row, column) = self.x.out, (stride // vector for stride in self.x.strides)
        top = B.bind(pixel % (out_height * out_width) // out_width * self.x.stride[0] - self.x.padding[0])
        left = B.bind(pixel % out_width * self.x.stride[1] - self.x.padding[1])
        first = B.bind(pixel // (out_height * out_width) * n + channels)
        totals, count = local(vector), local(1, "int32")
        count[0] = B.int32(0)
        for i in range(vector):
            totals[i] = tirx.const(-math.inf if self.op == "max" else 0.0, "float32")
        with B.serial(self.x.kernel[0]) as i, B.serial(self.x.kernel[1]) as j:
            y_at, x_at = B.bind(top + i * self.x.dilation[0]), B.bind(left + j * self.x.dilation[1])
            inside = tirx.all(y_at >= 0, y_at < self.x.size[0], x_at >= 0, x_at < self.x.size[1])
            place = first + y_at * row + x_at * column
            tap = (i * self.x.kernel[1] + j) * across + channels
            when(inside, lambda: self._add(totals, count, x, place, rest, tap))
        values = [self._finish(totals[i], count[0]) for i in range(vector)]
        self._store(pixel, channels, values, rest[1:] if self.op == "depthwise" else rest)

    def _add(self, totals: Memory, count: Memory, x: Memory, place: Expr, rest: tuple[Memory, ...], tap: Expr) -> None:
        values, factors = local(self.vector, self.dtype), None
        values.set_vector(0, self.vector, x.vector(place, self.vector))
        if self.op == "depthwise":
            factors = local(self.vector, self.dtype)
            factors.set_vector(0, self.vector, rest[0].vector(tap, self.vector))
        combine: Callable[[Expr, Expr], Expr] = vmath.maximum if self.op == "max" else lambda a, b: a + b
        for i in range(self.vector):
            value = vmath.to_float32(values[i])
            if factors is not None:
                value = value * vmath.to_float32(factors[i])
            totals[i] = combine(totals[i], vmath.hold(value))
        count[0] = count[0] + 1

    def _finish(self, total: Expr, count: Expr) -> Expr:
        if self.op != "mean":
            return total
        return total / (tirx.const(float(self.divisor), "float32") if self.divisor else B.cast(count, "float32"))

    def _store(self, pixel: Expr, channels: Expr, values: list[Expr], rest: tuple[Memory, ...]) -> None:
        zero = B.int32(0)
        column = channels, channels * self.vector
        self.epilogue.store(rest, self.y, (zero, zero, pixel), column, values, True)
