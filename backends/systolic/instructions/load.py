"""LOAD: words from DRAM to a memory on the chip, nested three deep, with padding around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..architecture import Architecture, Memory, Unit
from ..timing import LOAD_LATENCY
from .base import Access, Instruction, Traffic, choice, flag, grid, number, span

if TYPE_CHECKING:
    from ..simulator.memories import Machine


@dataclass(frozen=True, kw_only=True)
class Load(Instruction):
    """memory[destination + i] = word i of the nest (z, y, x), x fastest.

    The word at (z, y, x) is DRAM's at dram + z*stride_z + y*stride_y + x*stride_x, or `padding` in every lane when an
    index is among its level's first `before` or last `after`; padding is never read, so `dram` may lie before the data.
    """

    opcode: ClassVar[int] = 1
    mnemonic: ClassVar[str] = "load"
    unit: ClassVar[Unit] = Unit.LOAD

    memory: Memory = choice(3, Memory.ACTIVATIONS, "activations, weights, parameters or tables")  # noqa: RUF009
    transpose: bool = flag("turn each C words: word i lane j becomes word j lane i")
    dram: int = number(32, "DRAM word address of index (0, 0, 0)", signed=True)
    destination: int = number(24, "first word written; for tables, the first table")
    count_x: int = number(16, "indices of the inner level, padding included", default=1)
    stride_x: int = number(32, "DRAM words from one index to the next", signed=True, default=1)
    before_x: int = number(8, "so many first indices are padding")
    after_x: int = number(8, "so many last indices are padding")
    count_y: int = number(16, "indices of the middle level, padding included", default=1)
    stride_y: int = number(32, "DRAM words from one index to the next", signed=True)
    before_y: int = number(8, "so many first indices are padding")
    after_y: int = number(8, "so many last indices are padding")
    count_z: int = number(16, "indices of the outer level, padding included", default=1)
    stride_z: int = number(32, "DRAM words from one index to the next", signed=True)
    before_z: int = number(8, "so many first indices are padding")
    after_z: int = number(8, "so many last indices are padding")
    padding: int = number(8, "value of each byte of padding", signed=True)

    @property
    def words(self) -> int:
        """Words written, padding included."""
        return self.count_x * self.count_y * self.count_z

    @property
    def data_counts(self) -> tuple[int, int, int]:
        """How many indices of z, y, x are not padding."""
        return (
            self.count_z - self.before_z - self.after_z,
            self.count_y - self.before_y - self.after_y,
            self.count_x - self.before_x - self.after_x,
        )

    @property
    def data_words(self) -> int:
        """Words read from DRAM."""
        z, y, x = self.data_counts
        return z * y * x

    @property
    def data_start(self) -> int:
        """DRAM word address of the first index that is not padding."""
        return self.dram + self.before_z * self.stride_z + self.before_y * self.stride_y + self.before_x * self.stride_x

    def first_word(self, architecture: Architecture) -> int:
        """The first word written, as an address of the memory."""
        return self.destination * (architecture.table_words if self.memory is Memory.TABLES else 1)

    def check(self, architecture: Architecture) -> None:
        self.check_fields(architecture)
        if self.memory not in (Memory.ACTIVATIONS, Memory.WEIGHTS, Memory.PARAMETERS, Memory.TABLES):
            self.refuse("memory", "activations, weights, parameters or tables")
        self.check_counts("count_x", "count_y", "count_z")
        for level, data in zip("zyx", self.data_counts, strict=True):
            if data < 0:
                self.refuse(f"count_{level}", f"at least before_{level} + after_{level}")
        if self.transpose and self.memory not in (Memory.ACTIVATIONS, Memory.WEIGHTS):
            self.refuse("memory", "activations or weights", "other memories are not turned")
        if self.transpose and self.count_x != architecture.columns:
            self.refuse("count_x", f"{architecture.columns}, the columns of the array, when transposing")
        if self.memory is Memory.TABLES and self.words % architecture.table_words:
            self.refuse("count_x", f"such that words are a multiple of {architecture.table_words}, a table's")
        first = self.first_word(architecture)
        self.check_inside("destination", self.memory, first, first + self.words, architecture)

    def execute(self, machine: Machine) -> None:
        columns = machine.architecture.columns
        words = np.full((self.count_z, self.count_y, self.count_x, columns), self.padding, np.int8)
        if self.data_words:
            z, y, x = self.data_counts
            data = machine.view(
                Memory.DRAM, self.data_start, (z, self.stride_z), (y, self.stride_y), (x, self.stride_x)
            )
            words[
                self.before_z : self.before_z + z, self.before_y : self.before_y + y, self.before_x : self.before_x + x
            ] = data
        target = machine.view(self.memory, self.first_word(machine.architecture), (self.words, 1))
        if self.transpose:
            target.reshape(-1, columns, columns)[...] = words.reshape(-1, columns, columns).swapaxes(1, 2)
            return
        target[...] = words.reshape(self.words, columns)

    def issue_cycles(self, architecture: Architecture) -> int:
        turning = self.words if self.transpose else 0  # the block's register is filled, then emptied
        return self.data_words * architecture.beats + self.words - self.data_words + turning

    def done_cycles(self, architecture: Architecture) -> int:
        return self.issue_cycles(architecture) + architecture.dram_latency + LOAD_LATENCY

    def dram_span(self) -> tuple[int, int] | None:
        if not self.data_words:
            return None
        z, y, x = self.data_counts
        return span(self.data_start, (z, self.stride_z), (y, self.stride_y), (x, self.stride_x))

    def dram_partner(self) -> Memory | None:
        return self.memory

    def traffic(self, architecture: Architecture) -> Traffic:
        word = architecture.columns
        return {(Memory.DRAM, "read"): self.data_words * word, (self.memory, "write"): self.words * word}

    def accesses(self, architecture: Architecture) -> list[Access]:
        z, y, x = self.data_counts
        data = grid(self.data_start, (z, self.stride_z), (y, self.stride_y), (x, self.stride_x))
        written = grid(self.first_word(architecture), (self.words, 1))
        return [Access(Memory.DRAM, data, write=False), Access(self.memory, written, write=True)]
