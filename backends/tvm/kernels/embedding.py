"""Embedding lookup in a table of 8-bit integers with a scale a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from .base import Access, Expr, Kernel, Operand, broadcast
from .gather import row_number
from .loops import LAUNCH_COST, Axis, nest, run
from .vmath import convert


@dataclass(frozen=True)
class IntegerLookup(Kernel):
    """y[i, :] = table[ids[i], :] * scale[ids[i]] in float32; all operands are dense, ids int32 or int64.

    Ids out of range are clamped as in gather.py.
    """

    name: ClassVar[str] = "integer-lookup"

    rows: int
    inner: int
    count: int
    ids_dtype: str
    lanes: int
    threads: int

    @classmethod
    def choose(cls, rows: int, inner: int, count: int, ids_dtype: str, target: CpuTarget) -> IntegerLookup:
        """The kernel for `target`."""
        return cls(rows, inner, count, ids_dtype, target.vector.lanes, target.cores)

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InvalidInput(f"lookup table must have at least 1 row, not {self.rows}")

    def operands(self) -> tuple[Operand, ...]:
        named = {"table": "int8", "scale": "float32", "ids": self.ids_dtype}
        return (*(Operand(*item) for item in named.items()), Operand("y", "float32", write=True))

    def traffic(self, sizes: Sequence[int]) -> int:
        table, scale, ids, result = sizes
        return min(table, result // 4) + min(scale, 4 * self.count) + ids + result

    def describe(self) -> str:
        return f"integer-lookup {self.count} of {self.rows} rows of {self.inner}"

    def emit(self, table: Access, scale: Access, ids: Access, y: Access) -> None:
        work = self.count * self.inner
        if work == 0:
            B.evaluate(B.int32(0))
            return
        with nest([Axis(self.count, ())], self.threads if work >= LAUNCH_COST else 1) as (i,):
            number = row_number(ids, i, self.rows, wrap=False)
            row, factor = table.shifted(number * self.inner), B.bind(scale.load(number))

            def expand(start: Expr, lanes: int, slot: int) -> None:
                value = convert(row.load(start, lanes), "float32") * broadcast(factor, lanes)
                y.store(i * self.inner + start, value, lanes)

            run(self.inner, self.lanes, expand)
