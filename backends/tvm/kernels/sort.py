"""Sorting along one dimension: a stable bottom-up merge sort, one row a thread; topk is its first elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from .base import Access, Expr, Kernel, Operand, Registers, scratch
from .loops import LAUNCH_COST, Axis, nest, offset_of


@dataclass(frozen=True)
class Sort(Kernel):
    """values, indices = the first `count` of x sorted along a dimension of `size` elements; indices are int64.

    `rows` are the other dims; strides are in elements: (sorted dim, *rows). Equal elements keep their order, and NaN
    is the largest of all, as in PyTorch. Use `sort_kernel` to make one for a target.
    """

    name: ClassVar[str] = "sort"
    size: int
    count: int
    rows: tuple[int, ...]
    descending: bool
    dtype: str
    strides: tuple[int, ...]
    value_strides: tuple[int, ...]
    index_strides: tuple[int, ...]
    threads: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.size:
            raise InvalidInput(f"sort count must be at most {self.size}, not {self.count}")

    def operands(self) -> tuple[Operand, ...]:
        return (
            Operand("x", self.dtype),
            Operand("values", self.dtype, write=True),
            Operand("indices", "int64", write=True),
        )

    def describe(self) -> str:
        order = "descending" if self.descending else "ascending"
        return f"sort {math.prod(self.rows)} rows of {self.size} {order}, first {self.count}"

    def emit(self, x: Access, values: Access, indices: Access) -> None:
        if self.count == 0 or 0 in self.rows:
            B.evaluate(B.int32(0))
            return
        strides = (self.strides, self.value_strides, self.index_strides)
        axes = [Axis(n, tuple(s[d + 1] for s in strides)) for d, n in enumerate(self.rows)] or [Axis(1, (0, 0, 0))]
        work = math.prod(self.rows) * self.size * max(self.size.bit_length(), 1)
        with nest(axes, self.threads if work >= LAUNCH_COST else 1) as where:
            start, value_at, index_at = (offset_of(where, axes, k) for k in range(3))
            runs = [(scratch(self.size, self.dtype), scratch(self.size, "int32")) for _ in range(2)]
            keys, numbers = runs[0]
            with B.serial(self.size) as i:
                keys.store(i, x.load(start + i * self.strides[0]))
                numbers.store(i, i)
            width = 1
            while width < self.size:
                self._merge(runs[0], runs[1], width)
                runs.reverse()
                width *= 2
            keys, numbers = runs[0]
            with B.serial(self.count) as i:
                values.store(value_at + i * self.value_strides[0], keys.load(i))
                indices.store(index_at + i * self.index_strides[0], B.cast(numbers.load(i), "int64"))

    def _merge(self, source: tuple[Access, Access], destination: tuple[Access, Access], width: int) -> None:
        """Merge neighbouring sorted runs of `width` elements into runs of twice that."""
        next_left, next_right = Registers(1, 1, "int32"), Registers(1, 1, "int32")
        with B.serial(-(-self.size // (2 * width))) as pair:
            begin = B.bind(pair * (2 * width))
            middle, end = B.bind(B.min(begin + width, self.size)), B.bind(B.min(begin + 2 * width, self.size))
            next_left[0], next_right[0] = begin, middle
            with B.serial(end - begin) as step:
                i, j = B.bind(next_left[0]), B.bind(next_right[0])
                left = B.bind(source[0].load(B.min(i, self.size - 1)))
                right = B.bind(source[0].load(B.min(j, self.size - 1)))
                from_right = B.bind((j < end) & ((i >= middle) | self._before(right, left)))
                taken = B.bind(B.Select(from_right, B.min(j, self.size - 1), B.min(i, self.size - 1)))
                destination[0].store(begin + step, B.Select(from_right, right, left))
                destination[1].store(begin + step, source[1].load(taken))
                next_left[0] = i + B.Select(from_right, B.int32(0), B.int32(1))
                next_right[0] = j + B.Select(from_right, B.int32(1), B.int32(0))

    def _before(self, x: Expr, y: Expr) -> Expr:
        """Whether x comes strictly before y."""
        low, high = (y, x) if self.descending else (x, y)
        if not self.dtype.startswith(("float", "bfloat")):
            return low < high
        return (low < high) | (B.isnan(high) & ~B.isnan(low))


def sort_kernel(
    shape: Sequence[int],
    dim: int,
    count: int,
    descending: bool,
    dtype: str,
    strides: Sequence[int],
    value_strides: Sequence[int],
    index_strides: Sequence[int],
    target: CpuTarget,
) -> Sort:
    """Make a sort of a value of this shape along `dim` for a target; strides by dim."""
    rest = [d for d in range(len(shape)) if d != dim]
    x, values, indices = (tuple(s[d] for d in (dim, *rest)) for s in (strides, value_strides, index_strides))
    others = tuple(shape[d] for d in rest)
    return Sort(shape[dim], count, others, descending, dtype, x, values, indices, target.cores)
