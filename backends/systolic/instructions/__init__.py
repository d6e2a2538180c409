"""The instructions, one file each: encoding, legality, semantics and cost of an instruction stand together."""

from __future__ import annotations

from .base import INSTRUCTION_BYTES, Access, Field, Instruction, Kind, Traffic, units, with_banks
from .halt import Halt
from .load import Load
from .multiply import Multiply
from .store import Store
from .vector import Reduce, Vector

INSTRUCTIONS: tuple[type[Instruction], ...] = (Load, Multiply, Vector, Store, Halt)

__all__ = [
    "INSTRUCTIONS",
    "INSTRUCTION_BYTES",
    "Access",
    "Field",
    "Halt",
    "Instruction",
    "Kind",
    "Load",
    "Multiply",
    "Reduce",
    "Store",
    "Traffic",
    "Vector",
    "units",
    "with_banks",
]
