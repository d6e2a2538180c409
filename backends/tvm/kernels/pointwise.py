"""Fused chains of elementwise operations over strided views: arithmetic, casts, broadcasts, copies and
layout changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from . import vmath
from .base import Access, Expr, Kernel, Operand
from .loops import LAUNCH_COST, Axis, blocks, collapse, nest
from .pointwise_ops import POINTWISE, carrier, from_carrier, size_of
from .pointwise_program import (
    Instruction,
    ProgramKernel,
    Stream,
    copy_program,
    emit_program,
    fill_program,
    flip_program,
)
from .transpose import block_of, emit_transpose

_MOST_INTERLEAVED = 4  # elements side by side that are too few for a vector of their own


@dataclass(frozen=True)
class Pointwise(ProgramKernel, Kernel):
    """out[i] = program(inputs[i]) for every index i of `shape`; `results` names the instruction of each
    output.

    Outputs must not overlap inputs. Use `pointwise_kernel` and `copy_kernel` to make one for a target.
    """

    name: ClassVar[str] = "pointwise"
    vector_bytes: int
    threads: int

    @property
    def cost(self) -> int:
        """Work of one call in vectorised additions, as the choice of threads sees it."""
        steps = sum(POINTWISE[step.op].cost for step in self.program if step.op in POINTWISE)
        return math.prod(self.shape) * max(1, steps)

    @property
    def _is_word_copy(self) -> bool:
        streams = (*self.inputs, *self.outputs)
        return [step.op for step in self.program] == ["input"] and {s.dtype for s in streams} in (
            {"float32"},
            {"int32"},
        )

    def emit(self, *operands: Access) -> None:
        if 0 in self.shape:
            B.evaluate(B.int32(0))
            return
        indices = [step.parameters[0] for step in self.program if step.op == "index"]
        unit = [tuple(int(d == dim) for d in range(len(self.shape))) for dim in indices]
        strides = [stream.strides for stream in (*self.outputs, *self.inputs)] + unit
        axes = collapse(self.shape, strides)
        threads = self.threads if self.cost >= LAUNCH_COST else 1
        side = block_of(axes, self.vector_bytes // 4) if self._is_word_copy else 0
        if side:
            emit_transpose(axes, operands[0], operands[1], side, threads)
            return
        self._emit_rows(axes, operands, threads)

    def _emit_rows(self, axes: Sequence[Axis], operands: Sequence[Access], threads: int) -> None:
        *outer, row = axes
        together = self._interleaved(axes)
        if together > 1:
            *outer, row = outer
        widest = max(size_of(step.dtype) for step in self.program)
        lanes = min(self.vector_bytes // widest, 1 << (row.size.bit_length() - 1))
        steps = -(-row.size // lanes)
        # a last vector that does not fit is moved back over its neighbour: written twice, with the same
        # values
        with nest([*outer, Axis(steps, ())], threads) as position:
            *where, step = position
            start = step * lanes if row.size % lanes == 0 else B.min(step * lanes, row.size - lanes)
            start = B.bind(start)
            offsets = [
                sum(
                    (i * axis.strides[k] for i, axis in zip(where, outer, strict=True)),
                    start * row.strides[k],
                )
                for k in range(len(row.strides))
            ]
            inner = axes[-1].strides if together > 1 else row.strides
            parts = [
                self._values(
                    operands, [at + i * step for at, step in zip(offsets, inner, strict=True)], row.strides, lanes
                )
                for i in range(together)
            ]
            for number, values in enumerate(zip(*parts, strict=True)):
                access = operands[len(self.inputs) + number]
                if together == 1:
                    access.store(offsets[number], values[0], lanes, row.strides[number])
                    continue
                order = [i * lanes + lane for lane in range(lanes) for i in range(together)]
                access.store(offsets[number], tirx.Shuffle(list(values), order), together * lanes)

    def _interleaved(self, axes: Sequence[Axis]) -> int:
        """How many elements lie side by side in the outputs only, as the channels of an image that had them apart: 1
        where none do. Vectors then run along the next axis, and several are stored as one."""
        if len(axes) < 2 or "bool" in {stream.dtype for stream in self.outputs}:
            return 1
        *_, row, inner = axes
        count = len(self.outputs)
        written = all(a == inner.size and b == 1 for a, b in zip(row.strides[:count], inner.strides, strict=False))
        read = all(a in (0, 1) for a in row.strides[count:]) and any(row.strides[count:])
        return inner.size if inner.size <= _MOST_INTERLEAVED and written and read else 1

    def _values(
        self, operands: Sequence[Access], offsets: Sequence[Expr], strides: Sequence[int], lanes: int
    ) -> list[Expr]:
        """The elements to store in each output, for one vector."""
        count, first = len(self.outputs), len(self.outputs) + len(self.inputs)

        def load(number: int) -> Expr:
            return operands[number].load(offsets[count + number], lanes, strides[count + number])

        def index(number: int) -> Expr:
            value = B.cast(offsets[first + number], "int64")
            return value if lanes == 1 else B.ramp(value, B.int64(strides[first + number]), lanes)

        return emit_program(self.program, self.results, self.outputs, load, index, lanes)


def pointwise_kernel(
    shape: Sequence[int],
    inputs: Sequence[Stream],
    outputs: Sequence[Stream],
    program: Sequence[Instruction],
    results: Sequence[int],
    target: CpuTarget,
) -> Pointwise:
    """Make the kernel of a pointwise program for a target."""
    return Pointwise(
        tuple(shape),
        tuple(inputs),
        tuple(outputs),
        tuple(program),
        tuple(results),
        vector_bytes=4 * target.vector.lanes,
        threads=target.cores,
    )


def copy_kernel(
    shape: Sequence[int], dtype: str, source: Sequence[int], destination: Sequence[int], target: CpuTarget
) -> Pointwise:
    """Make the kernel that copies between two strided views of one shape and dtype: also every layout
    change."""
    streams = Stream(dtype, tuple(source)), Stream(dtype, tuple(destination))
    return pointwise_kernel(shape, streams[:1], streams[1:], copy_program(dtype), (0,), target)


def flip_kernel(
    shape: Sequence[int],
    dtype: str,
    result: str,
    source: Sequence[int],
    destination: Sequence[int],
    target: CpuTarget,
) -> Pointwise:
    """Make the kernel that copies int8 into uint8 with 128 added, or uint8 into int8 with 128 taken away."""
    streams = Stream(dtype, tuple(source)), Stream(result, tuple(destination))
    return pointwise_kernel(shape, streams[:1], streams[1:], flip_program(dtype), (2,), target)


def fill_kernel(shape: Sequence[int], dtype: str, strides: Sequence[int], value: Any, target: CpuTarget) -> Pointwise:
    """Make the kernel that writes one constant over a strided view."""
    output = Stream(dtype, tuple(strides))
    return pointwise_kernel(shape, (), (output,), fill_program(value, dtype), (0,), target)


@dataclass(frozen=True)
class FillFrame(Kernel):
    """Write `value` into the border of a dense channels-last tensor and leave its interior alone.

    `shape` is [batch, spatial..., channels] with the border, `pads` its width before and after each spatial
    dimension.
    """

    name: ClassVar[str] = "fill-frame"
    shape: tuple[int, ...]
    pads: tuple[int, ...]
    dtype: str
    value: float = 0.0

    def operands(self) -> tuple[Operand, ...]:
        return (Operand("y", self.dtype, write=True),)

    def describe(self) -> str:
        return f"fill-frame {'x'.join(map(str, self.shape))} {self.pads} = {self.value}"

    def emit(self, y: Access) -> None:
        B.evaluate(B.int32(0))
        outer = self.shape[0]
        for d in range(1, len(self.shape) - 1):
            inner = math.prod(self.shape[d + 1 :])
            before, after = self.pads[2 * d - 2], self.pads[2 * d - 1]
            # the border after one row and the border before the next lie side by side
            with B.serial(outer) as i:
                start = i * (self.shape[d] * inner)
                blocks(y, start, before * inner, self._constant)
                blocks(y, start + (self.shape[d] - after) * inner, after * inner, self._constant)
            outer *= self.shape[d]

    def _constant(self, lanes: int) -> Expr:
        value = vmath.constant(self.value if self.dtype != "bool" else int(self.value), carrier(self.dtype), lanes)
        return from_carrier(value, self.dtype)
