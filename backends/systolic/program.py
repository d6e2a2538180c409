"""A program for a systolic machine: instructions, what DRAM holds at the start, where inputs and outputs lie."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidArtifact, InvalidInput
from .architecture import Architecture
from .encoding import decode_all, disassemble, disassemble_all, encode_all
from .instructions import Halt, Instruction
from .layout import ITEMS, Bytes, Layout

MAGIC = b"fxpress systolic"
VERSION = 1
MOST_DRAM_WORDS = 1 << 31  # addresses are signed 32-bit numbers
_PROLOGUE = struct.Struct("<16sI32sQ")  # magic, version, SHA-256 of all that follows it, bytes of the header


@dataclass(frozen=True)
class Layer:
    """What an instruction was made from: a name, and where in the user's model it stands."""

    name: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.name} at {self.source}" if self.source else self.name


@dataclass(frozen=True)
class Value:
    """An input or output: `layout` says where it lies in DRAM; real value = (integer - zero) * scale."""

    name: str
    layout: Layout
    scale: float = 1.0
    zero: int = 0


@dataclass(frozen=True)
class Segment:
    """Constant bytes in DRAM; `address` is in bytes."""

    address: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class SystolicProgram:
    """Everything that a machine needs to run: `code` holds the encoded instructions, the last one HALT.

    DRAM has `dram_words` words of C bytes; it is zero at the start but for `constants`.
    """

    architecture: Architecture
    code: bytes
    layers: tuple[Layer, ...] = ()
    dram_words: int
    constants: tuple[Segment, ...] = ()
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()

    @classmethod
    def of(cls, instructions: Sequence[Instruction], **fields: Any) -> SystolicProgram:
        """A program of these instructions; `fields` are those of the class without `code`."""
        return cls(code=encode_all(instructions), **fields)

    @functools.cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """The decoded instructions. Raises InvalidArtifact when `code` is not made of instructions."""
        return tuple(decode_all(self.code))

    @property
    def dram_bytes(self) -> int:
        """Bytes of DRAM."""
        return self.dram_words * self.architecture.columns

    def dram(self) -> Bytes:
        """DRAM as it is at the start, without inputs. Raises InvalidInput as `check` does."""
        self.check()
        memory = np.zeros(self.dram_bytes, np.uint8)
        for segment in self.constants:
            memory[segment.address : segment.address + len(segment.data)] = np.frombuffer(segment.data, np.uint8)
        return memory

    def where(self, index: int) -> str:
        """Which instruction that is, for errors: its index, its text, its layer."""
        instruction = self.instructions[index]
        known = instruction.layer < len(self.layers)
        layer = str(self.layers[instruction.layer]) if known else str(instruction.layer)
        return f"instruction {index} `{disassemble(instruction)}` of layer {layer}"

    def check(self) -> None:
        """Raise InvalidInput naming the first thing that no machine of this architecture can do. Looks once."""
        _ = self._legal

    @functools.cached_property
    def _legal(self) -> bool:
        for kind, values in (("input", self.inputs), ("output", self.outputs)):
            if len({value.name for value in values}) != len(values):
                raise InvalidInput(f"{kind} names must differ, not {[value.name for value in values]}")
            for value in values:
                self._check_bytes(f"{kind} {value.name}", *_byte_span(value.layout))
        for segment in self.constants:
            self._check_bytes("a constant", segment.address, segment.address + len(segment.data))
        if not 0 <= self.dram_words <= MOST_DRAM_WORDS:
            raise InvalidInput(f"DRAM must have at most {MOST_DRAM_WORDS} words, not {self.dram_words}")
        last = len(self.instructions) - 1
        if last < 0:
            raise InvalidInput("a program must end with halt, not be empty")
        for index, instruction in enumerate(self.instructions):
            try:
                instruction.check(self.architecture)
            except InvalidInput as error:
                raise InvalidInput(f"{self.where(index)}: {error}") from error
            span = instruction.dram_span()
            if span is not None and (span[0] < 0 or span[1] > self.dram_words):
                raise InvalidInput(
                    f"{self.where(index)}: addresses must be in 0..{self.dram_words - 1} of DRAM, "
                    f"not {span[0]}..{span[1] - 1}"
                )
            if isinstance(instruction, Halt) != (index == last):
                raise InvalidInput(f"{self.where(index)}: halt must be the last instruction, and only that one")
        return True

    def _check_bytes(self, what: str, low: int, high: int) -> None:
        if low < 0 or high > self.dram_bytes:
            raise InvalidInput(f"{what} must lie in bytes 0..{self.dram_bytes - 1} of DRAM, not {low}..{high - 1}")

    def disassemble(self) -> str:
        """A line an instruction, with its index and layer as a comment; `assemble_all` reads it."""
        return disassemble_all(self.instructions, [str(layer) for layer in self.layers])

    def load_inputs(self, dram: Bytes, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Write integer inputs to DRAM. Raises InvalidInput when names or shapes are others than the program's."""
        names = [value.name for value in self.inputs]
        if set(inputs) != set(names):
            raise InvalidInput(f"inputs must be {names}, not {sorted(inputs)}")
        for value in self.inputs:
            value.layout.write(dram, inputs[value.name])

    def read_outputs(self, dram: Bytes) -> dict[str, NDArray[Any]]:
        """The integer outputs that DRAM holds."""
        return {value.name: value.layout.read(dram) for value in self.outputs}

    def to_bytes(self) -> bytes:
        """The program as one file's content."""
        header = {
            "architecture": str(self.architecture),
            "code": len(self.code),
            "layers": [asdict(layer) for layer in self.layers],
            "dram_words": self.dram_words,
            "constants": [[segment.address, len(segment.data)] for segment in self.constants],
            "inputs": [_value_to_json(value) for value in self.inputs],
            "outputs": [_value_to_json(value) for value in self.outputs],
        }
        text = json.dumps(header).encode()
        rest = b"".join([text, self.code, *(segment.data for segment in self.constants)])
        size = struct.pack("<Q", len(text))
        return _PROLOGUE.pack(MAGIC, VERSION, hashlib.sha256(size + rest).digest(), len(text)) + rest

    @classmethod
    def from_bytes(cls, data: bytes) -> SystolicProgram:
        """What `to_bytes` gave. Raises InvalidArtifact if it is foreign, damaged, or cannot run."""
        if len(data) < _PROLOGUE.size or not data.startswith(MAGIC):
            raise InvalidArtifact(f"a systolic program must start with {MAGIC!r}, not {data[: len(MAGIC)]!r}")
        _, version, digest, size = _PROLOGUE.unpack_from(data)
        if version != VERSION:
            raise InvalidArtifact(f"a systolic program's version must be {VERSION}, not {version}: compile it again")
        rest = data[_PROLOGUE.size :]
        if hashlib.sha256(struct.pack("<Q", size) + rest).digest() != digest:
            raise InvalidArtifact(
                "a systolic program must have the SHA-256 that it names, but is damaged: copy it again"
            )
        try:
            program = cls._parse(json.loads(rest[:size]), rest[size:])
            program.check()
        except (InvalidArtifact, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise InvalidArtifact(f"a systolic program must be one that fxpress wrote: {error}") from error
        return program

    @classmethod
    def _parse(cls, header: dict[str, Any], body: bytes) -> SystolicProgram:
        code, *sizes = [header["code"], *(size for _, size in header["constants"])]
        if min([code, *sizes]) < 0 or code + sum(sizes) != len(body):
            raise InvalidInput(f"code and constants must have {len(body)} bytes, not {code} + {sum(sizes)}")
        constants, start = [], code
        for address, size in header["constants"]:
            constants.append(Segment(int(address), body[start : start + size]))
            start += size
        return cls(
            architecture=Architecture.parse(str(header["architecture"])),
            code=body[:code],
            layers=tuple(Layer(str(layer["name"]), str(layer["source"])) for layer in header["layers"]),
            dram_words=int(header["dram_words"]),
            constants=tuple(constants),
            inputs=tuple(map(_value_from_json, header["inputs"])),
            outputs=tuple(map(_value_from_json, header["outputs"])),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program to one file, whole or not at all."""
        from ...runtime.container import replaced_file  # here, because that package loads TVM's runtime

        with replaced_file(path) as file:
            file.write(self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SystolicProgram:
        """Read what `save` wrote. Raises InvalidInput without the file, InvalidArtifact when it is no program."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InvalidInput(f"path must be a readable systolic program, not {str(path)!r}: {error}") from error
        return cls.from_bytes(data)


def _byte_span(layout: Layout) -> tuple[int, int]:
    low = layout.address + sum(min(table) for table in layout.tables)
    return low, layout.address + sum(max(table) for table in layout.tables) + ITEMS[layout.item].itemsize


def _value_to_json(value: Value) -> dict[str, Any]:
    return {"name": value.name, "layout": value.layout.to_json(), "scale": value.scale, "zero": value.zero}


def _value_from_json(data: dict[str, Any]) -> Value:
    return Value(str(data["name"]), Layout.from_json(data["layout"]), float(data["scale"]), int(data["zero"]))
