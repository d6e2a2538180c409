"""Instructions as 64 bytes and as one line of text, both made from the fields' metadata.

A line is the mnemonic and the fields that differ from their defaults: `multiply weight=36 pixels=20 accumulate
waits=load+vector activation_reads=0+1`. A flag is its name, units and banks are joined by "+", and what follows "#" is
a comment.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Iterable, Sequence

from ...errors import InvalidArtifact, InvalidInput
from .architecture import Unit
from .instructions import INSTRUCTION_BYTES, INSTRUCTIONS, Field, Instruction, Kind
from .instructions.base import OPCODE_BITS

REFERENCE_HEAD = f"""# Instructions of the systolic machine

Written by `fxpress.backends.systolic.encoding.reference()` from the definitions in `backends/systolic/instructions/`.
An instruction has {INSTRUCTION_BYTES} bytes, little-endian. Bits 7:0 hold the opcode, bits that no field has are zero,
signed fields are two's complement. C is the number of columns of the array; a word is C bytes, that is C channels of
one pixel. Addresses count words of their memory.

"""
_OF_OPCODE = {instruction.opcode: instruction for instruction in INSTRUCTIONS}
_OF_MNEMONIC = {instruction.mnemonic: instruction for instruction in INSTRUCTIONS}


def encode(instruction: Instruction) -> bytes:
    """The 64 bytes of an instruction. Raises InvalidInput if a value does not fit its field."""
    instruction.check_encodable()
    bits = instruction.opcode
    for place in instruction.layout():
        bits |= (int(getattr(instruction, place.name)) & ((1 << place.bits) - 1)) << place.low
    return bits.to_bytes(INSTRUCTION_BYTES, "little")


def decode(data: bytes) -> Instruction:
    """The instruction that 64 bytes stand for. Raises InvalidArtifact if they stand for none."""
    if len(data) != INSTRUCTION_BYTES:
        raise InvalidArtifact(f"an instruction must have {INSTRUCTION_BYTES} bytes, not {len(data)}")
    bits = int.from_bytes(data, "little")
    opcode = bits & ((1 << OPCODE_BITS) - 1)
    if opcode not in _OF_OPCODE:
        known = ", ".join(f"{code} ({cls.mnemonic})" for code, cls in _OF_OPCODE.items())
        raise InvalidArtifact(f"an opcode must be one of {known}, not {opcode}: the program is damaged or foreign")
    cls = _OF_OPCODE[opcode]
    values: dict[str, int] = {}
    for name, low, ones, sign, convert in _readers(cls):
        value = bits >> low & ones
        if sign and value & sign:
            value -= ones + 1
        if convert is not None:
            try:
                value = convert(value)
            except ValueError as error:
                raise InvalidArtifact(
                    f"{cls.mnemonic} field {name} has no value {value}: damaged or foreign"
                ) from error
        values[name] = value
    last = cls.layout()[-1]
    if bits >> (last.low + last.bits) or values["reserved"]:
        raise InvalidArtifact(f"unused bits of {cls.mnemonic} must be zero: the program is damaged or foreign")
    return cls(**values)


@functools.cache
def _readers(cls: type[Instruction]) -> tuple[tuple[str, int, int, int, type[enum.IntEnum] | type[bool] | None], ...]:
    """For each field: its name, lowest bit, ones, sign bit (0 if unsigned), and the type of its values if not int."""
    return tuple(
        (
            place.name,
            place.low,
            (1 << place.bits) - 1,
            1 << (place.bits - 1) if place.signed else 0,
            bool if place.kind is Kind.FLAG else place.choices,
        )
        for place in cls.layout()
    )


def encode_all(instructions: Iterable[Instruction]) -> bytes:
    """The bytes of instructions in order."""
    return b"".join(map(encode, instructions))


def decode_all(data: bytes) -> list[Instruction]:
    """The instructions that `data` holds. Raises InvalidArtifact naming the index of what is wrong."""
    if len(data) % INSTRUCTION_BYTES:
        raise InvalidArtifact(f"instructions must be a multiple of {INSTRUCTION_BYTES} bytes, not {len(data)} bytes")
    instructions = []
    for start in range(0, len(data), INSTRUCTION_BYTES):
        try:
            instructions.append(decode(data[start : start + INSTRUCTION_BYTES]))
        except InvalidArtifact as error:
            raise InvalidArtifact(f"instruction {start // INSTRUCTION_BYTES}: {error}") from error
    return instructions


def disassemble(instruction: Instruction) -> str:
    """One line of text; `assemble(disassemble(instruction)) == instruction`."""
    header: list[str] = []
    body: list[str] = []
    for place in instruction.layout():
        value = getattr(instruction, place.name)
        if value != place.default:
            (body if place.low >= _HEADER_BITS else header).append(_written(place, value))
    return " ".join([instruction.mnemonic, *body, *header])


_HEADER_BITS = 64


def _written(place: Field, value: int) -> str:
    if place.kind is Kind.FLAG:
        return place.name
    if isinstance(value, enum.IntEnum):
        return f"{place.name}={value.name.lower()}"
    if place.kind is Kind.NUMBER:
        return f"{place.name}={value}"
    members = [bit for bit in range(place.bits) if value >> bit & 1]
    names = [Unit(bit).name.lower() if place.kind is Kind.UNITS else str(bit) for bit in members]
    return f"{place.name}={'+'.join(names)}"


def assemble(line: str) -> Instruction:
    """The instruction of one line of text. Raises InvalidInput naming what cannot be read, or does not fit."""
    words = line.partition("#")[0].split()
    if not words or words[0] not in _OF_MNEMONIC:
        raise InvalidInput(f"an instruction must start with one of {sorted(_OF_MNEMONIC)}, not {line.strip()!r}")
    cls = _OF_MNEMONIC[words[0]]
    places = {place.name: place for place in cls.layout()}
    values: dict[str, int] = {}
    for word in words[1:]:
        name, equals, text = word.partition("=")
        if name not in places:
            raise InvalidInput(f"a field of {words[0]} must be one of {sorted(places)}, not {name!r}")
        if name in values:
            raise InvalidInput(f"{words[0]} field {name} must be given once, not twice")
        values[name] = _read(places[name], text if equals else None, words[0])
    instruction = cls(**values)
    instruction.check_encodable()
    return instruction


def _read(place: Field, text: str | None, mnemonic: str) -> int:
    if place.kind is Kind.FLAG:
        if text is not None:
            raise InvalidInput(f"{mnemonic} field {place.name} must be its name alone, not {place.name}={text}")
        return True
    names: Sequence[str] = ()
    if place.choices is not None:
        names = [member.name.lower() for member in place.choices]
    elif place.kind is Kind.UNITS:
        names = [unit.name.lower() for unit in Unit]
    elif place.kind is Kind.BANKS:
        names = [str(bank) for bank in range(place.bits)]
    given = (text or "").split("+") if place.choices is None else [text or ""]
    if names:
        if not set(given) <= set(names):
            joined = "" if place.choices is not None else ", joined by '+'"
            raise InvalidInput(f"{mnemonic} field {place.name} must be of {names}{joined}, not {text!r}")
        if place.choices is not None:
            return place.choices[given[0].upper()]
        return sum(1 << names.index(name) for name in set(given))
    try:
        return int(text or "", 0)
    except ValueError as error:
        raise InvalidInput(f"{mnemonic} field {place.name} must be an integer, not {text!r}") from error


def disassemble_all(instructions: Iterable[Instruction], layers: Sequence[str] = ()) -> str:
    """A line an instruction, with its index and the name of its layer as a comment."""
    lines = []
    for index, instruction in enumerate(instructions):
        layer = " ".join(layers[instruction.layer].split()) if instruction.layer < len(layers) else ""
        lines.append(f"{disassemble(instruction)}  # {index}{': ' if layer else ''}{layer}\n")
    return "".join(lines)


def assemble_all(text: str) -> list[Instruction]:
    """The instructions of a text; empty lines and comments do not count. Raises InvalidInput naming the line."""
    instructions = []
    for index, line in enumerate(text.splitlines(), 1):
        if not line.partition("#")[0].strip():
            continue
        try:
            instructions.append(assemble(line))
        except InvalidInput as error:
            raise InvalidInput(f"line {index}: {error}") from error
    return instructions


def reference() -> str:
    """All instructions and fields as Markdown, from their definitions: docs/systolic-instructions.md."""
    parts = [REFERENCE_HEAD]
    for cls in INSTRUCTIONS:
        unit = "no unit" if cls.unit is None else f"unit {cls.unit.name.lower()}"
        parts.append(f"## {cls.mnemonic} (opcode {cls.opcode}, {unit})\n\n{inspect.getdoc(cls)}\n\n")
        parts.append("| bits | field | values | meaning |\n|---|---|---|---|\n")
        for place in cls.layout():
            values = f"{place.least}..{place.most}"
            if place.choices is not None:
                values = ", ".join(f"{member.value} {member.name.lower()}" for member in place.choices)
            parts.append(f"| {place.low + place.bits - 1}:{place.low} | {place.name} | {values} | {place.doc} |\n")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"
