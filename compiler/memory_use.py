"""How many bytes a compiled Program needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of an artifact: all its constants, those of them that only loading reads, what loading computes from them,
    the memory of a call besides inputs and outputs, and the most of it that a single kernel needs for itself."""

    constants: int
    load_only: int
    derived: int
    arena: int
    scratch: int

    @property
    def resident(self) -> int:
        """Bytes that one caller needs at a time, inputs, outputs and code apart."""
        return self.constants - self.load_only + self.derived + self.arena
