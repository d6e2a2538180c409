"""What the cycle engine found: times of every instruction, and what they add up to."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..architecture import Memory, Unit
from ..instructions import Traffic
from ..program import SystolicProgram


class Stall(enum.Enum):
    """Why a unit took no instruction though it could have."""

    DISPATCH = "dispatch"  # its queue was empty
    TOKENS = "tokens"  # its next instruction waited for another unit
    PIPELINE = "pipeline"  # too many of its instructions were under way, or ones of another mode
    BANKS = "banks"  # another unit had a bank of its next instruction


@dataclass(frozen=True, eq=False)
class Timeline:
    """Cycles of a run. `dispatch`, `start` and `done` have an entry for each instruction.

    For every unit, busy cycles, `stalls` of all kinds and idle cycles after its last instruction add up to `total`.
    `full` counts the cycles in which the dispatcher waited for room in a unit's queue.
    """

    program: SystolicProgram
    dispatch: NDArray[np.int64]
    start: NDArray[np.int64]
    done: NDArray[np.int64]
    stalls: Mapping[Unit, Mapping[Stall, int]]
    full: Mapping[Unit, int]

    @property
    def total(self) -> int:
        """The cycle in which HALT is done."""
        return int(self.done[-1])

    @property
    def seconds(self) -> float:
        """The time of a run at the architecture's clock."""
        return self.total / (self.program.architecture.clock_mhz * 1e6)

    def busy(self, layer: int | None = None) -> dict[Unit, int]:
        """Cycles in which each unit could not take another instruction, of one layer or of all."""
        cycles = dict.fromkeys(Unit, 0)
        for instruction in self.program.instructions:
            if instruction.unit is not None and layer in (None, instruction.layer):
                cycles[instruction.unit] += instruction.issue_cycles(self.program.architecture)
        return cycles

    def idle(self) -> dict[Unit, int]:
        """Cycles after a unit's last instruction."""
        busy = self.busy()
        return {unit: self.total - busy[unit] - sum(self.stalls[unit].values()) for unit in Unit}

    def traffic(self, layer: int | None = None) -> Traffic:
        """Bytes read and written in each memory, of one layer or of all."""
        total: Traffic = {}
        for instruction in self.program.instructions:
            if layer in (None, instruction.layer):
                for key, size in instruction.traffic(self.program.architecture).items():
                    total[key] = total.get(key, 0) + size
        return total

    def dram_bytes(self) -> dict[Memory, tuple[int, int]]:
        """For each memory on the chip, the bytes that came to it from DRAM, and that went from it to DRAM."""
        totals: dict[Memory, list[int]] = {memory: [0, 0] for memory in Memory if memory is not Memory.DRAM}
        for instruction in self.program.instructions:
            memory = instruction.dram_partner()
            if memory is not None:
                for key, size in instruction.traffic(self.program.architecture).items():
                    if key[0] is Memory.DRAM:
                        totals[memory][key[1] == "write"] += size
        return {memory: (came, went) for memory, (came, went) in totals.items()}
