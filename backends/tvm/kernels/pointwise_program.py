"""Pointwise programs: what a fused chain of elementwise operations computes, on whatever machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ....errors import InvalidInput
from . import vmath
from .base import Expr, Operand
from .pointwise_ops import POINTWISE, carrier, cast, emit, from_carrier, to_carrier


@dataclass(frozen=True)
class Stream:
    """How an operand is laid out over the output's shape: its dtype and one element stride a dimension (0
    broadcasts)."""

    dtype: str
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Instruction:
    """One value of a pointwise program, which is a tuple of instructions, each naming earlier ones by
    position.

    `op` is a name of POINTWISE, "input" (parameters: its number), "constant" (the value) or "index" (a
    dimension of the
    output, whose index it yields as int64). `dtype` is the PyTorch dtype of the value.
    """

    op: str
    arguments: tuple[int, ...]
    dtype: str
    parameters: tuple[Any, ...] = ()


Program = tuple[Instruction, ...]


def copy_program(dtype: str) -> Program:
    """The input as it is."""
    return (Instruction("input", (), dtype, (0,)),)


def flip_program(dtype: str) -> Program:
    """int8 as uint8 with 128 added, or uint8 as int8 with 128 taken away."""
    return (
        Instruction("input", (), dtype, (0,)),
        Instruction("constant", (), "uint8", (128,)),
        Instruction("bitwise_xor", (0, 1), "uint8"),
    )


def fill_program(value: Any, dtype: str) -> Program:
    """A number, whatever the index."""
    return (Instruction("constant", (), dtype, (value,)),)


def check_program(shape: Sequence[int], streams: Sequence[Stream], program: Sequence[Instruction]) -> None:
    """Raises InvalidInput where streams have another rank than the shape, or an instruction is none."""
    for stream in streams:
        if len(stream.strides) != len(shape):
            raise InvalidInput(f"pointwise stream must have {len(shape)} strides, not {stream.strides!r}")
    for position, step in enumerate(program):
        if step.op not in POINTWISE and step.op not in ("input", "constant", "index"):
            raise InvalidInput(f"pointwise operation must be one of {sorted(POINTWISE)}, not {step.op!r}")
        if any(argument >= position for argument in step.arguments):
            raise InvalidInput(f"pointwise arguments must be earlier than {position}, not {step.arguments!r}")


@dataclass(frozen=True)
class ProgramKernel:
    """What kernels of pointwise programs have in common: out[i] = program(inputs[i]) for every index i of `shape`;
    `results` names the instruction of each output."""

    shape: tuple[int, ...]
    inputs: tuple[Stream, ...]
    outputs: tuple[Stream, ...]
    program: tuple[Instruction, ...]
    results: tuple[int, ...]

    def __post_init__(self) -> None:
        check_program(self.shape, (*self.inputs, *self.outputs), self.program)

    def operands(self) -> tuple[Operand, ...]:
        inputs = [Operand(f"x{i}", stream.dtype) for i, stream in enumerate(self.inputs)]
        outputs = [Operand(f"y{i}", stream.dtype, write=True) for i, stream in enumerate(self.outputs)]
        return (*inputs, *outputs)

    def flops(self) -> int:
        return math.prod(self.shape) * sum(step.op in POINTWISE for step in self.program)

    def describe(self) -> str:
        ops = [step.op for step in self.program if step.op not in ("input", "constant")]
        return f"pointwise {'x'.join(map(str, self.shape))} {','.join(ops) or 'copy'}"


def emit_program(
    program: Sequence[Instruction],
    results: Sequence[int],
    outputs: Sequence[Stream],
    load: Callable[[int], Expr],
    index: Callable[[int], Expr],
    lanes: int,
) -> list[Expr]:
    """The elements to store in each output, for one vector of `lanes` elements.

    `load` yields the elements of an input by its number, `index` an int64 vector for the index instructions, counted.
    """
    uses = _uses(program, results)
    values: list[Expr] = []
    indices = 0
    for position, step in enumerate(program):
        if step.op == "input":
            value = to_carrier(load(step.parameters[0]), step.dtype)
        elif step.op == "constant":
            value = vmath.constant(step.parameters[0], carrier(step.dtype), lanes)
        elif step.op == "index":
            value, indices = cast(index(indices), "int64", step.dtype), indices + 1
        else:
            dtypes = [program[i].dtype for i in step.arguments]
            value = emit(step.op, [values[i] for i in step.arguments], dtypes, step.dtype, step.parameters)
        held = step.op not in ("constant", "index") and uses[position] > 1
        values.append(vmath.hold(value) if held else value)
    return [
        from_carrier(cast(values[result], program[result].dtype, stream.dtype), stream.dtype)
        for stream, result in zip(outputs, results, strict=True)
    ]


_READS_ONCE = frozenset("add sub mul div eq ne lt le gt ge logical_and logical_or logical_not where cast".split())


def _uses(program: Sequence[Instruction], results: Sequence[int]) -> list[int]:
    # how often each value is read; an operation may read its arguments several times
    uses = [0] * len(program)
    for step in program:
        for argument in step.arguments:
            uses[argument] += 1 if step.op in _READS_ONCE else 2
    for result in results:
        uses[result] += 1
    return uses
