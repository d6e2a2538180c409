"""Weights that are stored without their zeros, expanded when the artifact is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from ....ops.sparse import pack_masked
from .base import Access, Expr, Kernel, Operand, Registers

CHUNK = 1 << 14  # elements that a task expands
_BYTE = 8


@dataclass(frozen=True)
class ExpandMasked(Kernel):
    """y[i], for i < elements, is the next of `values` where bit i % 8 of mask[i // 8] is set, else 0.

    The operands values, mask and starts, which says where the values of each chunk begin, are what `pack` gives.
    """

    name: ClassVar[str] = "expand-masked"
    elements: int
    dtype: str

    @staticmethod
    def pack(dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The operands that expand to `dense`, read as one row of elements."""
        flat = dense.flatten()
        values, mask = pack_masked(flat.unsqueeze(0))
        counts = torch.nn.functional.pad(flat != 0, (0, -len(flat) % CHUNK)).view(-1, CHUNK).sum(1)
        starts = (counts.cumsum(0) - counts).to(torch.int32)
        return torch.cat([values, values.new_zeros(1)]), mask, starts  # one more is read than there are

    def operands(self) -> tuple[Operand, ...]:
        values, y = Operand("values", self.dtype), Operand("y", self.dtype, write=True)
        return values, Operand("mask", "uint8"), Operand("starts", "int32"), y

    def describe(self) -> str:
        return f"{self.name} {self.elements}"

    def emit(self, values: Access, mask: Access, starts: Access, y: Access) -> None:
        with B.parallel(-(-self.elements // CHUNK)) as chunk:
            first = B.bind(chunk * CHUNK)
            next_value = Registers(1, 1, "int32")
            next_value[0] = starts.load(chunk)

            def expand(at: Expr, count: int) -> None:
                bits = B.bind(B.cast(mask.load(at // _BYTE), "int32"))
                for i in range(count):
                    bit = B.bind((bits >> i) & 1)
                    value = B.bind(values.load(next_value[0]))
                    y.store(at + i, tirx.Select(bit != 0, value, tirx.const(0, self.dtype)))
                    next_value[0] = next_value[0] + bit

            whole, rest = divmod(self.elements, _BYTE)
            with B.serial(B.min(B.int32(CHUNK // _BYTE), whole - chunk * (CHUNK // _BYTE))) as byte:
                expand(B.bind(first + byte * _BYTE), _BYTE)
            if rest:
                with B.If(chunk == self.elements // CHUNK), B.Then():
                    expand(B.int32(whole * _BYTE), rest)
