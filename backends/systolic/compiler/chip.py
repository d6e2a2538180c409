"""What the layers of a program share while it is emitted: instructions, constants in DRAM, memories on the chip."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..architecture import Architecture, Memory
from ..instructions import Instruction, Load
from .rings import Ring


@dataclass
class Image:
    """The constants in DRAM behind the buffers: `start` is the word address of the first one."""

    start: int
    columns: int
    pieces: list[bytes] = field(default_factory=list)
    words: int = 0
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(self, data: NDArray[np.int8] | NDArray[np.uint8]) -> int:
        """Put whole words behind what is there and return their word address."""
        raw = np.ascontiguousarray(data).tobytes()
        address = self.start + self.words
        self.pieces.append(raw)
        self.words += len(raw) // self.columns
        return address

    def shared(self, data: NDArray[np.int8]) -> int:
        """`add`, once for equal data."""
        raw = data.tobytes()
        if raw not in self._known:
            self._known[raw] = self.add(data)
        return self._known[raw]


class Chip:
    """The instructions so far, and what they leave in the memories that outlive a layer."""

    def __init__(self, architecture: Architecture, first_constant: int) -> None:
        self.architecture = architecture
        self.image = Image(first_constant, architecture.columns)
        self.instructions: list[Instruction] = []
        self.weights = Ring(0, architecture.words(Memory.WEIGHTS))
        self.parameters = Ring(0, architecture.words(Memory.PARAMETERS))
        self.tables = Ring(0, architecture.tables)
        self.sums = Ring(0, architecture.accumulator_banks)  # counts banks

    def table(self, layer: int, table: NDArray[np.int8]) -> int:
        """The number of the on-chip table that holds these entries, loaded when it is not there."""
        number, fresh = self.tables.place(table.tobytes(), 1)
        if fresh:
            words = self.architecture.table_words
            dram = self.image.shared(table)
            self.instructions.append(
                Load(memory=Memory.TABLES, destination=number, dram=dram, count_x=words, layer=layer)
            )
        return number
