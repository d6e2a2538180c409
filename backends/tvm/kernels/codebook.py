"""Weights that are stored as indices into shared values, expanded when the artifact is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from .base import Access, Kernel, Operand

VALUES = 256  # so that every index is within the table
CHUNK = 1 << 14


@dataclass(frozen=True)
class ExpandCodebook(Kernel):
    """y[i] = values[indices[i]] for i < elements; `values` has 256 of them."""

    name: ClassVar[str] = "expand-codebook"
    elements: int

    def operands(self) -> tuple[Operand, ...]:
        return Operand("indices", "uint8"), Operand("values", "float32"), Operand("y", "float32", write=True)

    def describe(self) -> str:
        return f"codebook {self.elements}"

    def emit(self, indices: Access, values: Access, y: Access) -> None:
        with B.parallel(-(-self.elements // CHUNK)) as chunk:
            start = B.bind(chunk * CHUNK)
            with B.serial(B.min(B.int32(CHUNK), self.elements - start)) as step:
                i = B.bind(start + step)
                y.store(i, values.load(B.cast(indices.load(i), "int32")))
