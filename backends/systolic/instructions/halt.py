"""HALT: the last instruction of a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..architecture import Architecture, Unit
from .base import Access, Instruction, Traffic

if TYPE_CHECKING:
    from ..simulator.memories import Machine


@dataclass(frozen=True, kw_only=True)
class Halt(Instruction):
    """Wait until every unit has done all it was given; then the program is done."""

    opcode: ClassVar[int] = 5
    mnemonic: ClassVar[str] = "halt"
    unit: ClassVar[Unit | None] = None

    def check(self, architecture: Architecture) -> None:
        self.check_fields(architecture)
        for name in ("waits", "signals"):
            if getattr(self, name):
                self.refuse(name, "0", "halt waits for every unit, without tokens")

    def execute(self, machine: Machine) -> None:
        """Nothing changes."""

    def issue_cycles(self, architecture: Architecture) -> int:
        return 1

    def done_cycles(self, architecture: Architecture) -> int:
        return 1

    def traffic(self, architecture: Architecture) -> Traffic:
        return {}

    def accesses(self, architecture: Architecture) -> list[Access]:
        return []
