"""Linear layers of a few rows whose weight is stored without its zeros, wherever these are, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import tvm
from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Operand, Registers, broadcast
from .gemm import CHUNK, LONGEST, Chunks
from .linear import Linear
from .linear_shape import LinearShape
from .vmath import constant, hold

_SUMS = 8  # vectors of sums that hide the latency of a multiply-add
_VECTORS = 4  # of a panel: what a step costs besides is shared by so many
_AHEAD = 1024  # values: how far before its use one is asked for, as far as memory is slow


@dataclass(frozen=True, kw_only=True)
class MaskedLinear(Linear):
    """A linear layer for a few rows, bound by the memory that its weight takes.

    Operands: those of the shape, with what `pack_sparse` gives in place of the weight: the values that are not zero,
    panel by panel, step by step of k; a mask for each vector of columns; where each panel's values begin; and without
    AVX-512 the table that says for each mask which lane gets which value.
    """

    copies: int  # sets of sums, which take turns

    name: ClassVar[str] = "masked-linear"

    @classmethod
    def choose_masked(cls, shape: LinearShape, target: CpuTarget) -> Self:
        """The kernel with its tile chosen for `target`; the sums of all rows must fit into the registers."""
        lanes = target.vector.lanes
        rows, vectors = shape.inner, min(_VECTORS, -(-shape.n // lanes))
        while vectors > 1 and rows * vectors > target.vector.registers // 2:
            vectors //= 2
        copies = max(1, _SUMS // (rows * vectors))
        return cls(shape=shape, lanes=lanes, tile_rows=rows, tile_vectors=vectors, block=shape.outer, copies=copies)

    def operands(self) -> tuple[Operand, ...]:
        table = (Operand("table", "int32"),) * (self.lanes != 16)
        stored = (Operand("weight", "float32"), Operand("mask", self._mask), Operand("pointers", "int32"), *table)
        x, _, *rest = super().operands()
        return (x, *stored, *rest)

    @property
    def _mask(self) -> str:
        return f"uint{self.lanes}"

    def describe(self) -> str:
        copies = f" copies={self.copies}" if self.copies > 1 else ""
        return f"{self.name} {self.tile_rows}x{self.tile_vectors}{copies}"

    def pack_sparse(self, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The weight's operands, of a weight [n, k]."""
        panels = self.pack(weight).reshape(-1, self.shape.k, self.width)
        held = panels != 0
        pointers = torch.nn.functional.pad(held.flatten(1).sum(1).cumsum(0), (1, 0)).to(torch.int32)
        values = torch.nn.functional.pad(panels[held], (0, self.lanes))  # a whole vector is read at the last one
        bits = 1 << torch.arange(self.lanes)
        mask = (held.reshape(-1, self.lanes) * bits).sum(1).to(getattr(torch, self._mask))
        return (values, mask, pointers, *([] if self.lanes == 16 else [_places(self.lanes)]))

    def emit(self, *operands: Access) -> None:
        """Emit the loops, with the expanding load defined for LLVM."""
        if self.lanes != 16:
            super().emit(*operands)
            return
        with B.attr(tirx.const(0), "pragma_import_llvm", tvm.ir.StringImm(_EXPAND)):
            super().emit(*operands)

    def weight(self, named: dict[str, Access], panel: Expr, piece: Expr) -> dict[str, Access]:
        mask = named["mask"].shifted(panel * (self.shape.k * self.tile_vectors))
        return {**named, "weight": named["weight"].shifted(named["pointers"].load(panel)), "mask": mask}

    def accumulate(
        self, tile: Registers, rows: int, vectors: int, x: Access, weight: dict[str, Access], number: Expr
    ) -> None:
        values, mask, k = weight["weight"], weight["mask"], self.shape.k
        slots = rows * vectors
        sums = Registers(slots * self.copies, self.lanes)
        for slot in range(slots * self.copies):
            sums[slot] = broadcast(B.float32(0), self.lanes)
        place = Registers(1, 1, "int32")
        place[0] = B.int32(0)

        def step(at: Expr, copy: int) -> None:
            columns = []
            for j in range(vectors):
                here = B.bind(mask.load(at * self.tile_vectors + j))
                first = B.bind(place[0])
                if j % 2 == 0:  # two vectors fill about a cache line
                    values.prefetch(first + _AHEAD)
                columns.append(self._expanded(values, first, here, weight.get("table")))
                place[0] = first + tirx.call_llvm_pure_intrin("int32", "llvm.ctpop.i32", B.cast(here, "int32"))
            for i in range(rows):
                value = broadcast(B.bind(x.load(i * self.shape.x.inner + at)), self.lanes)
                for j in range(vectors):
                    slot = copy * slots + i * vectors + j
                    sums[slot] = sums[slot] + value * columns[j]

        unroll = max(4, self.copies)

        def run(first: Expr, length: int) -> None:
            whole, rest = divmod(length, unroll)
            if whole:
                with B.serial(whole) as block:
                    for u in range(unroll):
                        step(B.bind(first + (block * unroll + u)), u % self.copies)
            for u in range(rest):
                step(first + (whole * unroll + u), u % self.copies)

        if k <= LONGEST * self.copies:
            run(B.int32(0), k)
        else:
            chunks, length = Chunks(sums, slots * self.copies), CHUNK * self.copies
            with B.serial(k // length) as chunk:
                run(B.bind(chunk * length), length)
                chunks.close()
            if k % length:
                run(B.int32(k // length * length), k % length)
            chunks.close()
            chunks.finish()
        for slot in range(slots):
            for copy in range(self.copies):
                tile[slot] = tile[slot] + sums[copy * slots + slot]

    def _expanded(self, values: Access, first: Expr, mask: Expr, table: Access | None) -> Expr:
        """A vector with the values from `first` on in the lanes that the mask names, 0 in the others."""
        if table is None:
            return B.bind(B.call_pure_extern(_NAME, values.address(first), mask, dtype="float32x16"))
        places = hold(table.load(B.cast(mask, "int32") * self.lanes, self.lanes))
        found: Any = tirx.call_llvm_pure_intrin(
            "float32x8", "llvm.x86.avx2.permps", values.load(first, self.lanes), places
        )
        zero = constant(0, "int32", self.lanes)
        return B.bind(tirx.Select(places < zero, constant(0.0, "float32", self.lanes), found))


def _places(lanes: int) -> torch.Tensor:
    """For each mask and lane the number of its value, below 0 where the lane has none."""
    held = torch.arange(1 << lanes).unsqueeze(1) >> torch.arange(lanes) & 1
    return torch.where(held == 1, held.cumsum(1) - 1, -1).to(torch.int32)


_NAME = "fxpress_expand_16"
_EXPAND = f"""
define <16 x float> @{_NAME}(ptr %values, i16 %mask) alwaysinline nounwind "target-features"="+avx512f,+avx512vl" {{
  %lanes = bitcast i16 %mask to <16 x i1>
  %zero = bitcast <16 x i32> zeroinitializer to <16 x float>
  %result = call <16 x float> @llvm.masked.expandload.v16f32(ptr %values, <16 x i1> %lanes, <16 x float> %zero)
  ret <16 x float> %result
}}
declare <16 x float> @llvm.masked.expandload.v16f32(ptr, <16 x i1>, <16 x float>)
"""
