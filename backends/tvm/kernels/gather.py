"""Rows picked by number: embedding lookup, index_select, and gather along a dimension.

Ids out of range are clamped to the nearest valid one: memory safety without a check that could stop a whole
batch. PyTorch raises an error there, so no correct program sees the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from .base import Access, Expr, Kernel, Operand
from .loops import LAUNCH_COST, Axis, nest, offset_of, run
from .pointwise_ops import size_of


def row_number(ids: Access, at: Expr, rows: int, wrap: bool) -> Expr:
    """The id at `at`, clamped to 0..rows-1 and counted from the end where negative if `wrap`."""
    number = B.bind(B.cast(ids.load(at), "int64"))
    if wrap:
        number = B.bind(number + B.Select(number < 0, B.int64(rows), B.int64(0)))
    return B.bind(B.cast(B.max(B.min(number, B.int64(rows - 1)), B.int64(0)), "int32"))


def _picked(table: int, ids: int, result: int) -> int:
    """Bytes read and written when only what goes to the result is read of the table, or all of it again and again."""
    return min(table, result) + ids + result


@dataclass(frozen=True)
class Lookup(Kernel):
    """y[o, i, :] = table[o, ids[i], :] for o < outer, i < count; ids are dense int32 or int64.

    `strides` are the element strides (outer, row) of the table, whose rows are dense; `out_strides` (outer,
    count) those of y.
    With `panel` = p > 0 the table, [rows, inner] with outer = 1, is packed as linear layers pack their
    weights:
    element (v, d) lies at ((v // p) * inner + d) * p + v % p. `wrap` counts negative ids from the end.
    Use `lookup_kernel` to make one for a target.
    """

    name: ClassVar[str] = "lookup"
    outer: int
    rows: int
    inner: int
    count: int
    ids_dtype: str
    dtype: str
    strides: tuple[int, int]
    out_strides: tuple[int, int]
    panel: int
    wrap: bool
    vector_bytes: int
    threads: int

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InvalidInput(f"lookup table must have at least 1 row, not {self.rows}")
        if self.ids_dtype not in ("int32", "int64"):
            raise InvalidInput(f"lookup ids must be int32 or int64, not {self.ids_dtype!r}; cast them")
        if self.panel and self.outer != 1:
            raise InvalidInput(f"packed lookup table must have outer 1, not {self.outer}")

    def operands(self) -> tuple[Operand, ...]:
        return (
            Operand("table", self.dtype),
            Operand("ids", self.ids_dtype),
            Operand("y", self.dtype, write=True),
        )

    def traffic(self, sizes: Sequence[int]) -> int:
        return _picked(*sizes)

    def describe(self) -> str:
        packed = f" packed by {self.panel}" if self.panel else ""
        return f"lookup {self.count} of {self.rows} rows of {self.inner}{packed}"

    def emit(self, table: Access, ids: Access, y: Access) -> None:
        work = self.outer * self.count * self.inner
        if work == 0:
            B.evaluate(B.int32(0))
            return
        axes = [
            Axis(self.outer, (self.out_strides[0], self.strides[0])),
            Axis(self.count, (self.out_strides[1], 0)),
        ]
        lanes = self.vector_bytes // size_of(self.dtype)
        with nest(axes, self.threads if work >= LAUNCH_COST else 1) as where:
            y_row, start = offset_of(where, axes, 0), offset_of(where, axes, 1)
            number = row_number(ids, where[1], self.rows, self.wrap)
            if self.panel:
                row = B.bind((number // self.panel) * (self.inner * self.panel) + number % self.panel)
            else:
                row = B.bind(start + number * self.strides[1])
            step = self.panel or 1

            def copy(i: Expr, width: int, slot: int) -> None:
                y.store(y_row + i, table.load(row + i * step, width, step), width)

            run(self.inner, lanes, copy)


@dataclass(frozen=True)
class Gather(Kernel):
    """y[i...] = x[i... with its index in `dim` replaced by ids[i...]], as torch.gather; ids are int32 or
    int64.

    `shape` is that of ids and y, `size` the extent of x in `dim`; strides are in elements.
    Use `gather_kernel` to make one for a target.
    """

    name: ClassVar[str] = "gather"
    shape: tuple[int, ...]
    dim: int
    size: int
    ids_dtype: str
    dtype: str
    strides: tuple[int, ...]
    ids_strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    threads: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInput(f"gathered dimension must have at least 1 element, not {self.size}")

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", self.dtype), Operand("ids", self.ids_dtype), Operand("y", self.dtype, write=True)

    def traffic(self, sizes: Sequence[int]) -> int:
        return _picked(*sizes)

    def describe(self) -> str:
        return f"gather {'x'.join(map(str, self.shape))} along {self.dim}"

    def emit(self, x: Access, ids: Access, y: Access) -> None:
        if 0 in self.shape:
            B.evaluate(B.int32(0))
            return
        axes = [
            Axis(n, (self.out_strides[d], self.ids_strides[d], 0 if d == self.dim else self.strides[d]))
            for d, n in enumerate(self.shape)
        ] or [Axis(1, (0, 0, 0))]
        threads = self.threads if math.prod(self.shape) >= LAUNCH_COST else 1
        with nest(axes, threads) as where:
            y_at, ids_at, x_at = (offset_of(where, axes, k) for k in range(3))
            number = row_number(ids, ids_at, self.size, wrap=False)
            stride = self.strides[self.dim] if self.shape else 0
            y.store(y_at, x.load(x_at + number * stride))


def lookup_kernel(
    outer: int,
    rows: int,
    inner: int,
    count: int,
    ids_dtype: str,
    dtype: str,
    target: CpuTarget,
    *,
    strides: tuple[int, int] | None = None,
    out_strides: tuple[int, int] | None = None,
    panel: int = 0,
    wrap: bool = False,
) -> Lookup:
    """Make a lookup for a target; dense strides by default. See Lookup for the arguments."""
    strides = strides or (rows * inner, inner)
    out_strides = out_strides or (count * inner, inner)
    sizes = outer, rows, inner, count, ids_dtype, dtype
    return Lookup(*sizes, strides, out_strides, panel, wrap, 4 * target.vector.lanes, target.cores)


def gather_kernel(
    shape: Sequence[int],
    dim: int,
    size: int,
    ids_dtype: str,
    dtype: str,
    strides: Sequence[int],
    ids_strides: Sequence[int],
    out_strides: Sequence[int],
    target: CpuTarget,
) -> Gather:
    """Make a gather for a target; see Gather for the arguments."""
    layout = tuple(strides), tuple(ids_strides), tuple(out_strides)
    return Gather(tuple(shape), dim, size, ids_dtype, dtype, *layout, target.cores)
