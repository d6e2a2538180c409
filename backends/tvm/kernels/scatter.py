"""Writing by number along a dimension: what gather reads, scatter writes, adds or compares.

Ids out of range are clamped to the nearest valid one, as in gather.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from . import vmath
from .base import Access, Expr, Kernel, Operand
from .gather import row_number
from .loops import LAUNCH_COST, Axis, nest, offset_of
from .pointwise_ops import is_float


def _larger(x: Expr, y: Expr) -> Expr:
    return vmath.maximum(x, y) if is_float(vmath.element_of(x)) else B.max(x, y)


def _smaller(x: Expr, y: Expr) -> Expr:
    return vmath.minimum(x, y) if is_float(vmath.element_of(x)) else B.min(x, y)


COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "put": lambda held, value: value,
    "sum": lambda held, value: held + value,
    "prod": lambda held, value: held * value,
    "amax": _larger,
    "amin": _smaller,
}


@dataclass(frozen=True)
class Scatter(Kernel):
    """y[i... with its index in `dim` replaced by ids[i...]] = op(itself, source[i...]), in order along `dim`.

    `shape` is that of the ids, `size` the extent of y in `dim`; strides are in elements, ids int32 or int64. What y
    held before counts. Use `scatter_kernel` to make one for a target.
    """

    name: ClassVar[str] = "scatter"
    op: str
    shape: tuple[int, ...]
    dim: int
    size: int
    ids_dtype: str
    dtype: str
    ids_strides: tuple[int, ...]
    strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    threads: int

    def __post_init__(self) -> None:
        if self.op not in COMBINE:
            raise InvalidInput(f"scatter must be one of {sorted(COMBINE)}, not {self.op!r}")

    def operands(self) -> tuple[Operand, ...]:
        return Operand("ids", self.ids_dtype), Operand("source", self.dtype), Operand("y", self.dtype, write=True)

    def describe(self) -> str:
        return f"scatter {self.op} {'x'.join(map(str, self.shape))} along {self.dim}"

    def emit(self, ids: Access, source: Access, y: Access) -> None:
        if 0 in self.shape or not self.size:
            B.evaluate(B.int32(0))
            return
        rows = [self.out_strides, self.ids_strides, self.strides]
        axes = [Axis(n, tuple(row[d] for row in rows)) for d, n in enumerate(self.shape) if d != self.dim]
        axes = axes or [Axis(1, (0, 0, 0))]
        step, ids_step, source_step = (row[self.dim] for row in rows)
        threads = self.threads if math.prod(self.shape) >= LAUNCH_COST else 1
        with nest(axes, threads) as where:
            y_at, ids_at, source_at = (offset_of(where, axes, k) for k in range(3))
            with B.serial(self.shape[self.dim]) as k:
                at = B.bind(y_at + row_number(ids, ids_at + k * ids_step, self.size, wrap=False) * step)
                held, value = B.bind(y.load(at)), B.bind(source.load(source_at + k * source_step))
                y.store(at, COMBINE[self.op](held, value))


def scatter_kernel(
    op: str,
    shape: Sequence[int],
    dim: int,
    size: int,
    ids_dtype: str,
    dtype: str,
    ids_strides: Sequence[int],
    strides: Sequence[int],
    out_strides: Sequence[int],
    target: CpuTarget,
) -> Scatter:
    """Make a scatter for a target; see Scatter for the arguments."""
    layout = tuple(ids_strides), tuple(strides), tuple(out_strides)
    return Scatter(op, tuple(shape), dim, size, ids_dtype, dtype, *layout, target.cores)
