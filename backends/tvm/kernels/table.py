"""Functions of one 8-bit integer as tables of 256 bytes, looked up in registers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Kernel, Operand
from .loops import LAUNCH_COST, Axis, collapse, nest, offset_of, vectors
from .vmath import constant, hold, select, vector_type

ENTRIES = 256
_PAIR = 128  # entries that one permutation of bytes picks from
_ROW = 16  # entries that one shuffle of bytes picks from
_COST = 8  # of a look-up, in additions
_SHUFFLE = {16: "llvm.x86.ssse3.pshuf.b.128", 32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}


@dataclass(frozen=True)
class Table(Kernel):
    """y[i] = table[x[i]] for every index i of `shape`, all uint8; `strides` and `out_strides` are those of x and y.

    With `permutes` the CPU has permutations of 64 bytes. Use `Table.choose` to make one for a target.
    """

    name: ClassVar[str] = "table"

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    bytes: int
    permutes: bool
    threads: int

    @classmethod
    def choose(
        cls, shape: Sequence[int], strides: Sequence[int], out_strides: Sequence[int], target: CpuTarget
    ) -> Table:
        """The kernel for `target`."""
        width, permutes = 4 * target.vector.lanes, target.has("vbmi")
        return cls(tuple(shape), tuple(strides), tuple(out_strides), width, permutes, target.cores)

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", "uint8"), Operand("table", "uint8"), Operand("y", "uint8", write=True)

    def extensions(self) -> frozenset[str]:
        return frozenset({"vbmi"}) if self.permutes else frozenset()

    def describe(self) -> str:
        return f"table {'x'.join(map(str, self.shape))}"

    def emit(self, x: Access, table: Access, y: Access) -> None:
        if 0 in self.shape:
            B.evaluate(B.int32(0))
            return
        *outer, row = collapse(self.shape, [self.out_strides, self.strides])
        threads = self.threads if _COST * math.prod(self.shape) >= LAUNCH_COST else 1
        if row.strides != (1, 1) or row.size < _ROW:
            self._one_by_one([*outer, row], x, table, y, threads)
            return
        with vectors(row, outer, self.bytes, threads) as (lanes, (y_at, x_at), _):
            y.store(y_at, self._look_up(B.bind(x.load(x_at, lanes)), table, lanes), lanes)

    def _one_by_one(self, axes: Sequence[Axis], x: Access, table: Access, y: Access, threads: int) -> None:
        with nest(axes, threads) as where:
            y_at, x_at = (offset_of(where, axes, k) for k in range(2))
            y.store(y_at, table.load(B.cast(x.load(x_at), "int32")))

    def _look_up(self, x: Expr, table: Access, lanes: int) -> Expr:
        kind = vector_type("int8", lanes)
        if self.permutes and lanes == 64:
            parts = [tirx.reinterpret(kind, table.load(B.int32(at), lanes)) for at in range(0, ENTRIES, lanes)]
            index = tirx.reinterpret(kind, x)
            name = "llvm.x86.avx512.vpermi2var.qi.512"
            low, high = (hold(tirx.call_llvm_pure_intrin(kind, name, a, index, b)) for a, b in (parts[:2], parts[2:]))
            picked = select(x < constant(_PAIR, "uint8", lanes), low, high)
            return tirx.reinterpret(vector_type("uint8", lanes), picked)
        result = None
        for row in range(ENTRIES // _ROW):
            part = hold(table.load(B.int32(row * _ROW), _ROW))
            entries = part if lanes == _ROW else tirx.Shuffle([part] * (lanes // _ROW), list(range(lanes)))
            # a sum of 128 or more makes the shuffle give 0: all but the bytes of this row
            place = x ^ constant(row * _ROW, "uint8", lanes)
            kind = vector_type("uint8", lanes)
            place = tirx.call_llvm_pure_intrin(
                kind, f"llvm.uadd.sat.v{lanes}i8", place, constant(_PAIR - _ROW, "uint8", lanes)
            )
            picked = hold(tirx.call_llvm_pure_intrin(kind, _SHUFFLE[lanes], entries, place))
            result = picked if result is None else hold(result | picked)
        return result
