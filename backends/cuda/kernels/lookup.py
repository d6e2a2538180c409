"""Rows of a table picked by index: embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ...tvm.kernels.base import Expr, Operand
from .base import CudaKernel, Launch, Memory, Place, when

_THREADS = 128


@dataclass(frozen=True)
class Lookup(CudaKernel):
    """y[i] = table[ids[i]], rows of `inner` dense elements, `vector` at a time.

    Indices beyond the table's `rows` pick its first or last row: no memory but the table's is read.
    """

    name: ClassVar[str] = "lookup"
    rows: int
    inner: int
    count: int
    ids_dtype: str
    dtype: str
    vector: int = 1

    def operands(self) -> tuple[Operand, ...]:
        return Operand("table", self.dtype), Operand("ids", self.ids_dtype), Operand("y", self.dtype, write=True)

    def describe(self) -> str:
        return f"lookup {self.count} of {self.rows}x{self.inner}"

    @property
    def _groups(self) -> int:
        return self.count * (self.inner // self.vector)

    def launch(self) -> Launch:
        return Launch((max(-(-self._groups // _THREADS), 1), 1, 1), _THREADS)

    def emit(self, at: Place, table: Memory, ids: Memory, y: Memory) -> None:
        group = B.bind(at.block[0] * _THREADS + at.thread)
        when(self._groups % _THREADS == 0 or group < self._groups, lambda: self._copy(group, table, ids, y))

    def _copy(self, group: Expr, table: Memory, ids: Memory, y: Memory) -> None:
        across = self.inner // self.vector
        row = B.bind(B.cast(B.min(B.max(ids[group // across], 0), self.rows - 1), "int32"))
        y.set_vector(group, self.vector, table.vector(row * across + group % across, self.vector))
