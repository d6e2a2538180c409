"""STORE: words from a memory on the chip to DRAM, nested three deep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..architecture import ACCUMULATOR_PIECES, Architecture, Memory, Unit
from ..timing import STORE_LATENCY
from .base import Access, Instruction, Level, Traffic, choice, distinct, grid, number, span

if TYPE_CHECKING:
    from ..simulator.memories import Machine


@dataclass(frozen=True, kw_only=True)
class Store(Instruction):
    """DRAM at dram + z*stride_z + y*stride_y + x*stride_x = memory[source + z*source_stride_z + y*source_stride_y + x].

    A word of accumulators is four words of DRAM in a row, little-endian int32.
    """

    opcode: ClassVar[int] = 4
    mnemonic: ClassVar[str] = "store"
    unit: ClassVar[Unit] = Unit.STORE

    memory: Memory = choice(3, Memory.ACTIVATIONS, "activations or accumulators")  # noqa: RUF009
    source: int = number(24, "word of index (0, 0, 0) in the memory")
    dram: int = number(32, "DRAM word address of index (0, 0, 0)", signed=True)
    count_x: int = number(16, "indices of the inner level", default=1)
    stride_x: int = number(32, "DRAM words from one index to the next", signed=True, default=1)
    count_y: int = number(16, "indices of the middle level", default=1)
    stride_y: int = number(32, "DRAM words from one index to the next", signed=True)
    count_z: int = number(16, "indices of the outer level", default=1)
    stride_z: int = number(32, "DRAM words from one index to the next", signed=True)
    source_stride_y: int = number(24, "words of the memory from one middle index to the next")
    source_stride_z: int = number(24, "words of the memory from one outer index to the next")

    @property
    def words(self) -> int:
        """Words read from the memory."""
        return self.count_x * self.count_y * self.count_z

    @property
    def pieces(self) -> int:
        """DRAM words that a word of the memory takes."""
        return ACCUMULATOR_PIECES if self.memory is Memory.ACCUMULATORS else 1

    @property
    def source_levels(self) -> tuple[Level, Level, Level]:
        """The nest in the memory, outermost first."""
        return (self.count_z, self.source_stride_z), (self.count_y, self.source_stride_y), (self.count_x, 1)

    @property
    def dram_levels(self) -> tuple[Level, Level, Level]:
        """The nest in DRAM, outermost first."""
        return (self.count_z, self.stride_z), (self.count_y, self.stride_y), (self.count_x, self.stride_x)

    def check(self, architecture: Architecture) -> None:
        self.check_fields(architecture)
        if self.memory not in (Memory.ACTIVATIONS, Memory.ACCUMULATORS):
            self.refuse("memory", "activations or accumulators")
        self.check_counts("count_x", "count_y", "count_z")
        if not distinct(*self.dram_levels, words=self.pieces):
            self.refuse("stride_x", "such that no DRAM word is written twice, with stride_y and stride_z")
        self.check_inside("source", self.memory, *span(self.source, *self.source_levels), architecture)

    def execute(self, machine: Machine) -> None:
        words = machine.view(self.memory, self.source, *self.source_levels)
        target = machine.view(Memory.DRAM, self.dram, *self.dram_levels, words=self.pieces)
        target[...] = np.ascontiguousarray(words).view(np.int8)

    def issue_cycles(self, architecture: Architecture) -> int:
        return self.words * self.pieces * architecture.beats

    def done_cycles(self, architecture: Architecture) -> int:
        return self.issue_cycles(architecture) + architecture.dram_latency + STORE_LATENCY

    def dram_span(self) -> tuple[int, int] | None:
        return span(self.dram, *self.dram_levels, words=self.pieces)

    def dram_partner(self) -> Memory | None:
        return self.memory

    def traffic(self, architecture: Architecture) -> Traffic:
        size = self.words * self.pieces * architecture.columns
        return {(self.memory, "read"): size, (Memory.DRAM, "write"): size}

    def accesses(self, architecture: Architecture) -> list[Access]:
        return [
            Access(self.memory, grid(self.source, *self.source_levels), write=False),
            Access(Memory.DRAM, grid(self.dram, *self.dram_levels, (self.pieces, 1)), write=True),
        ]
