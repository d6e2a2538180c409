"""What an instruction is: fields with a place in 64 bytes, legality, semantics, cost, and the words it touches."""

from __future__ import annotations

import enum
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from ....errors import InvalidInput
from ..architecture import Architecture, Memory, Unit

if TYPE_CHECKING:
    from ..simulator.memories import Machine

INSTRUCTION_BYTES = 64
OPCODE_BITS = 8
Addresses = NDArray[np.int64]
Traffic = dict[tuple[Memory, str], int]  # bytes by memory and "read" or "write"
Level = tuple[int, int]  # a count, and the distance of one address from the next


class Kind(enum.Enum):
    """What the value of a field is, for people who read it."""

    NUMBER = "number"
    FLAG = "flag"
    CHOICE = "choice"
    UNITS = "units"
    BANKS = "banks"


@dataclass(frozen=True)
class Field:
    """A field of an instruction: bits `low` to `low + bits - 1` of its 512, two's complement when `signed`."""

    name: str
    low: int
    bits: int
    signed: bool
    kind: Kind
    doc: str
    default: int
    choices: type[enum.IntEnum] | None = None

    @property
    def least(self) -> int:
        """The least value that fits."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def most(self) -> int:
        """The greatest value that fits."""
        return (1 << (self.bits - self.signed)) - 1


def number(bits: int, doc: str, *, signed: bool = False, default: int = 0) -> Any:
    """Declare a field that holds an integer."""
    return _declare(default, bits=bits, signed=signed, kind=Kind.NUMBER, doc=doc)


def flag(doc: str) -> Any:
    """Declare a field of one bit, off by default."""
    return _declare(False, bits=1, kind=Kind.FLAG, doc=doc)


def choice(bits: int, default: enum.IntEnum, doc: str) -> Any:
    """Declare a field that holds one of an enumeration's values."""
    return _declare(default, bits=bits, kind=Kind.CHOICE, doc=doc, choices=type(default))


def mask(bits: int, kind: Kind, doc: str) -> Any:
    """Declare a field with one bit a unit, or a bank."""
    return _declare(0, bits=bits, kind=kind, doc=doc)


def _declare(default: int, *, signed: bool = False, **metadata: Any) -> Any:
    return field(default=default, metadata={"default": default, "signed": signed, **metadata})


def units(*members: Unit) -> int:
    """The value of `waits` or `signals` that names these units."""
    return sum(1 << unit for unit in set(members))


@dataclass(frozen=True)
class Access:
    """Words that an instruction reads or writes: addresses in words of their memory, in any order."""

    memory: Memory
    addresses: Addresses
    write: bool


@dataclass(frozen=True, kw_only=True)
class Instruction(ABC):
    """One instruction. Field order is bit order, from bit 0, without gaps; what is left of the 512 bits is zero."""

    opcode: ClassVar[int]
    mnemonic: ClassVar[str]
    unit: ClassVar[Unit | None]

    waits: int = mask(4, Kind.UNITS, "units that must each give a token before this starts")
    signals: int = mask(4, Kind.UNITS, "units that each get a token when this is done")
    layer: int = number(16, "index of the source layer, for reports and errors")
    activation_reads: int = mask(8, Kind.BANKS, "activation banks that this may read")
    activation_writes: int = mask(8, Kind.BANKS, "activation banks that this may write")
    accumulator_banks: int = mask(8, Kind.BANKS, "accumulator banks that this may read or write")
    reserved: int = number(8, "zero")

    @classmethod
    def layout(cls) -> tuple[Field, ...]:
        """The fields behind the opcode (bits 0 to 7), with their places."""
        return _layout(cls)

    @abstractmethod
    def check(self, architecture: Architecture) -> None:
        """Raise InvalidInput, naming instruction, field and layer, if no machine of this architecture can run this."""

    @abstractmethod
    def execute(self, machine: Machine) -> None:
        """Change the memories of `machine` as the hardware does."""

    @abstractmethod
    def issue_cycles(self, architecture: Architecture) -> int:
        """Cycles from the start until the unit can take its next instruction."""

    @abstractmethod
    def done_cycles(self, architecture: Architecture) -> int:
        """Cycles from the start until the last word is written and tokens are given."""

    @abstractmethod
    def accesses(self, architecture: Architecture) -> list[Access]:
        """The words that this reads and writes. Needs an instruction that passes `check`."""

    def dram_span(self) -> tuple[int, int] | None:
        """The least DRAM word that this touches and one more than the greatest, or None."""
        return None

    def dram_partner(self) -> Memory | None:
        """The memory on the chip that this exchanges words with DRAM for, or None."""
        return None

    @abstractmethod
    def traffic(self, architecture: Architecture) -> Traffic:
        """Bytes that go through the ports of each memory, words read again counted again."""

    def mode(self) -> int:
        """Instructions of one unit overlap only if their modes are equal."""
        return 0

    def refuse(self, name: str, expected: str, remedy: str = "") -> NoReturn:
        """Raise InvalidInput for the field `name`."""
        value = getattr(self, name)
        found = value.name.lower() if isinstance(value, enum.Enum) else repr(value)
        text = f"{self.mnemonic} field {name} must be {expected}, not {found} (layer {self.layer})"
        raise InvalidInput(text + (f": {remedy}" if remedy else ""))

    def check_encodable(self) -> None:
        """Raise InvalidInput, naming field and layer, unless every value fits its bits."""
        for place in self.layout():
            value = getattr(self, place.name)
            if place.choices is not None and not isinstance(value, place.choices):
                self.refuse(
                    place.name,
                    f"one of {[member.name.lower() for member in place.choices]}, of {place.choices.__name__}",
                )
            if not isinstance(value, int) or not place.least <= value <= place.most:
                self.refuse(place.name, f"an integer in {place.least}..{place.most}")

    def check_fields(self, architecture: Architecture) -> None:
        """What holds for every instruction: values fit their fields, banks exist, no unit waits for itself."""
        self.check_encodable()
        if self.reserved:
            self.refuse("reserved", "0")
        for name in ("waits", "signals"):
            if self.unit is not None and getattr(self, name) >> self.unit & 1:
                self.refuse(name, f"units other than {self.unit.name.lower()}, which is in order by itself")
        for name, banks in (
            ("activation_reads", architecture.activation_banks),
            ("activation_writes", architecture.activation_banks),
            ("accumulator_banks", architecture.accumulator_banks),
        ):
            if getattr(self, name) >> banks:
                self.refuse(name, f"a mask of {banks} banks")

    def check_counts(self, *names: str) -> None:
        """Raise InvalidInput unless these fields are at least one."""
        for name in names:
            if getattr(self, name) < 1:
                self.refuse(name, "at least 1")

    def check_inside(self, name: str, memory: Memory, low: int, high: int, architecture: Architecture) -> None:
        """Raise InvalidInput, naming the field, unless addresses low..high-1 lie in that memory."""
        words = architecture.words(memory)
        if low < 0 or high > words:
            where = f"such that addresses {low}..{high - 1} are in 0..{words - 1} of the {memory.name.lower()} memory"
            self.refuse(name, where)


@functools.cache
def _layout(cls: type[Instruction]) -> tuple[Field, ...]:
    places, low = [], OPCODE_BITS
    for item in fields(cls):
        places.append(Field(item.name, low, **item.metadata))
        low += places[-1].bits
    assert low <= 8 * INSTRUCTION_BYTES, f"{cls.__name__} has {low} bits"
    return tuple(places)


def grid(base: int, *levels: Level) -> Addresses:
    """Addresses base + sum of index * stride over nested levels, outermost first."""
    addresses = np.array([base], np.int64)
    for count, stride in levels:
        addresses = (addresses[:, None] + stride * np.arange(count, dtype=np.int64)).reshape(-1)
    return addresses


def span(base: int, *levels: Level, words: int = 1) -> tuple[int, int]:
    """The least address of nested levels of runs of `words` words, and one more than the greatest."""
    reach = [stride * (count - 1) for count, stride in levels]
    return base + sum(min(0, r) for r in reach), base + sum(max(0, r) for r in reach) + words


def distinct(*levels: Level, words: int = 1) -> bool:
    """Whether nested levels of runs of `words` words visit no word twice (for sure)."""
    extent = words
    for count, stride in sorted((level for level in levels if level[0] > 1), key=lambda level: abs(level[1])):
        if abs(stride) < extent:
            return False
        extent += abs(stride) * (count - 1)
    return True


def pixel_runs(pixels: int, width: int) -> list[tuple[int, int, int]]:
    """`pixels` in rows of `width` as (first row, rows, pixels a row): the whole rows, then what is left."""
    rows, rest = divmod(pixels, width)
    return [run for run in ((0, rows, width), (rows, 1, rest)) if run[1] and run[2]]


_I = TypeVar("_I", bound=Instruction)


def bank_mask(addresses: Iterable[Addresses], words: int) -> int:
    """One bit for each bank of `words` words that addresses lie in."""
    found = 0
    for some in addresses:
        if not some.size:
            continue
        low, high = int(some.min()) // words, int(some.max()) // words
        banks = (low,) if low == high else np.unique(some // words).tolist()
        for bank in banks:
            found |= 1 << bank
    return found


def bank_masks(instruction: Instruction, architecture: Architecture) -> dict[str, int]:
    """The banks that an instruction touches, by the field that must name them."""
    accesses = instruction.accesses(architecture)

    def banks(memory: Memory, writes: tuple[bool, ...]) -> int:
        touched = (access.addresses for access in accesses if access.memory is memory and access.write in writes)
        return bank_mask(touched, architecture.bank_words(memory))

    return {
        "activation_reads": banks(Memory.ACTIVATIONS, (False,)),
        "activation_writes": banks(Memory.ACTIVATIONS, (True,)),
        "accumulator_banks": banks(Memory.ACCUMULATORS, (False, True)),
    }


def with_banks(instruction: _I, architecture: Architecture) -> _I:
    """The instruction with the masks of exactly those banks that it touches."""
    return replace(instruction, **bank_masks(instruction, architecture))
