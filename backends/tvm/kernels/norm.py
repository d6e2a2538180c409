"""Layer norm and RMS norm, and what they share with group norm. Mean and variance are taken in two passes, which is
accurate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from .base import Access, Expr, Kernel, Operand, broadcast
from .loops import LAUNCH_COST, collapse, nest, offset_of, run
from .sums import UNROLL, mean_of
from .vmath import constant, hold, opaque, rsqrt

_WORK = 6  # cost of an element in additions


@dataclass(frozen=True)
class Norm(Kernel):
    """What normalises a float32 view and then scales by weight and adds bias, where there are any.

    `residual` says that there is a second input, to be added to x first.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    eps: float
    weight: bool
    bias: bool
    lanes: int
    threads: int
    residual: bool = field(default=False, kw_only=True)

    def operands(self) -> tuple[Operand, ...]:
        names = ["x", *["residual"] * self.residual, *["weight"] * self.weight, *["bias"] * self.bias]
        return (*(Operand(name, "float32") for name in names), Operand("y", "float32", write=True))

    def flops(self) -> int:
        return _WORK * math.prod(self.shape)


@dataclass(frozen=True)
class LayerNorm(Norm):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the last `trailing` dimensions; float32.

    `rms` leaves out the mean. The trailing dimensions of x and y must be dense; weight and bias are dense.
    With `residual` a second input, laid out as x, is added to x first. Operands: x, residual?, weight?,
    bias?, y.
    Use `layer_norm_kernel` to make one for a target.
    """

    name: ClassVar[str] = "layer-norm"
    trailing: int
    rms: bool

    def __post_init__(self) -> None:
        if not 1 <= self.trailing <= len(self.shape):
            raise InvalidInput(f"normalised dimensions must be 1 to {len(self.shape)} many, not {self.trailing}")
        for strides in (self.strides, self.out_strides):
            if not _dense(self.shape[-self.trailing :], strides[-self.trailing :]):
                raise InvalidInput(f"normalised dimensions must be dense, not of strides {strides!r}; copy the view")

    @property
    def size(self) -> int:
        """Elements normalised together."""
        return math.prod(self.shape[-self.trailing :])

    def describe(self) -> str:
        rows = math.prod(self.shape) // max(self.size, 1)
        return f"{'rms' if self.rms else 'layer'}-norm {rows}x{self.size}{' +residual' if self.residual else ''}"

    def emit(self, *operands: Access) -> None:
        given = dict(zip((operand.name for operand in self.operands()), operands, strict=True))
        x, y, residual = given["x"], given["y"], given.get("residual")
        if 0 in self.shape:
            B.evaluate(B.int32(0))
            return
        kept = slice(0, len(self.shape) - self.trailing)
        axes = collapse(self.shape[kept], [self.out_strides[kept], self.strides[kept]])
        threads = self.threads if self.flops() >= LAUNCH_COST else 1
        with nest(axes, threads) as where:
            y_row, x_row = (offset_of(where, axes, k) for k in (0, 1))
            if residual is None:
                row, base = x, x_row
            else:
                row, base = y, y_row  # the sum is kept where the result will be

            def add_residual(start: Expr, lanes: int) -> Expr:
                value = x.load(x_row + start, lanes)
                if residual is not None:
                    value = hold(value + residual.load(x_row + start, lanes))
                    y.store(y_row + start, value, lanes)
                return value

            def load(start: Expr, lanes: int) -> Expr:
                return row.load(base + start, lanes)

            first = add_residual
            mean: Expr = None
            if not self.rms:
                mean = hold(mean_of(self.size, self.lanes, first))
                first = load

            def square(start: Expr, lanes: int) -> Expr:
                value = hold(first(start, lanes) if mean is None else first(start, lanes) - broadcast(mean, lanes))
                return value * value

            scale = hold(rsqrt(mean_of(self.size, self.lanes, square) + constant(self.eps, "float32")))

            def finish(start: Expr, lanes: int, slot: int) -> None:
                value = load(start, lanes)
                if mean is not None:
                    value = opaque(value) - broadcast(mean, lanes)
                value = value * broadcast(scale, lanes)
                if self.weight:
                    value = value * given["weight"].load(start, lanes)
                if self.bias:
                    value = value + given["bias"].load(start, lanes)
                y.store(y_row + start, value, lanes)

            run(self.size, self.lanes, finish, UNROLL)


def _dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def layer_norm_kernel(
    shape: Sequence[int],
    trailing: int,
    strides: Sequence[int],
    out_strides: Sequence[int],
    eps: float,
    target: CpuTarget,
    *,
    weight: bool = True,
    bias: bool = True,
    rms: bool = False,
    residual: bool = False,
) -> LayerNorm:
    """Make a layer norm (or RMS norm) for a target; see LayerNorm for the arguments."""
    layout = tuple(shape), tuple(strides), tuple(out_strides)
    return LayerNorm(*layout, eps, weight, bias, target.vector.lanes, target.cores, trailing, rms, residual=residual)
