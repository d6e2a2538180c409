"""Fused chains of elementwise operations over strided operands: pointwise programs, a few elements a thread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm.tirx.script import builder as B

from ...tvm.kernels.base import Expr
from ...tvm.kernels.loops import Axis, collapse
from ...tvm.kernels.pointwise_program import Instruction, ProgramKernel, Stream, emit_program
from ...tvm.views import ITEM_SIZES
from .base import ACCESS, CudaKernel, Launch, Memory, Place, local, when

_THREADS = 256


@dataclass(frozen=True)
class Pointwise(ProgramKernel, CudaKernel):
    """out[i] = program(inputs[i]) for every index i of `shape`; `results` names the instruction of each output.

    A thread computes `lanes` elements that are adjacent in the dimension that the first output has innermost. Operands
    that are dense there are aligned to as many elements. Outputs must not overlap inputs.
    """

    name: ClassVar[str] = "pointwise"
    lanes: int = 1

    @classmethod
    def choose(
        cls,
        shape: Sequence[int],
        inputs: Sequence[Stream],
        outputs: Sequence[Stream],
        program: Sequence[Instruction],
        results: Sequence[int],
        aligned: Sequence[int],
    ) -> Pointwise:
        """The kernel with the widest accesses, where `aligned` bytes divide the addresses of the operands in turn."""
        kernel = cls(tuple(shape), tuple(inputs), tuple(outputs), tuple(program), tuple(results))
        if 0 in kernel.shape:
            return kernel
        *outer, row = kernel._axes()
        lanes = ACCESS // max(ITEM_SIZES[stream.dtype] for stream in kernel._written_first())
        while lanes > 1 and not kernel._fits(lanes, outer, row, aligned):
            lanes //= 2
        return cls(kernel.shape, kernel.inputs, kernel.outputs, kernel.program, kernel.results, lanes)

    def describe(self) -> str:
        return f"{super().describe()} by {self.lanes}"

    def launch(self) -> Launch:
        blocks = -(-math.prod(self.shape) // (self.lanes * _THREADS))
        return Launch((max(blocks, 1), 1, 1), _THREADS)

    def emit(self, at: Place, *operands: Memory) -> None:
        groups = math.prod(self.shape) // self.lanes
        if not groups:
            B.evaluate(B.int32(0))
            return
        group = B.bind(at.block[0] * _THREADS + at.thread)
        when(groups % _THREADS == 0 or group < groups, lambda: self._group(group, operands))

    def _group(self, group: Expr, operands: Sequence[Memory]) -> None:
        """Compute the elements of one group of `lanes`; groups are counted in the order of the axes."""
        axes, count, lanes = self._axes(), len(self.outputs), self.lanes
        row = axes[-1].strides
        positions = _positions(group, [*(axis.size for axis in axes[:-1]), axes[-1].size // lanes])
        offsets = []  # of operands that are dense along the row in groups, of others in elements
        for number, step in enumerate(row):
            strides = [axis.strides[number] for axis in axes[:-1]]
            strides = [*(s // lanes for s in strides), 1] if step == 1 else [*strides, step * lanes]
            offsets.append(B.bind(sum((p * s for p, s in zip(positions, strides, strict=True)), B.int32(0))))
        loaded = [_loaded(operands[i], offsets[count + i], row[count + i], lanes) for i in range(len(self.inputs))]
        made = [local(lanes, stream.dtype) for stream in self.outputs]
        for lane in range(lanes):
            values = self._values(lane, loaded, offsets, row)
            for memory, value in zip(made, values, strict=True):
                memory[lane] = value
        for number, elements in enumerate(made):
            _store(operands[len(self.inputs) + number], offsets[number], row[number], elements, lanes)

    def _values(self, lane: int, loaded: Sequence[Memory], offsets: Sequence[Expr], row: Sequence[int]) -> list[Expr]:
        count, first = len(self.outputs), len(self.outputs) + len(self.inputs)

        def load(number: int) -> Expr:
            return loaded[number][lane if row[count + number] else 0]

        def index(number: int) -> Expr:
            step = row[first + number]
            start = offsets[first + number] * (self.lanes if step == 1 else 1)
            return B.cast(start + lane * step, "int64")

        return emit_program(self.program, self.results, self.outputs, load, index, 1)

    def _axes(self) -> list[Axis]:
        indices = [step.parameters[0] for step in self.program if step.op == "index"]
        unit = [tuple(int(d == dim) for d in range(len(self.shape))) for dim in indices]
        return collapse(self.shape, [stream.strides for stream in self._written_first()] + unit)

    def _written_first(self) -> tuple[Stream, ...]:
        return (*self.outputs, *self.inputs)

    def _fits(self, lanes: int, outer: Sequence[Axis], row: Axis, aligned: Sequence[int]) -> bool:
        """Whether so many elements of every dense operand lie at a multiple of their size."""
        if row.size % lanes:
            return False
        in_order = (*aligned[len(self.inputs) :], *aligned[: len(self.inputs)])
        for number, (stream, divisor) in enumerate(zip(self._written_first(), in_order, strict=True)):
            if row.strides[number] != 1:
                continue
            if divisor % (lanes * ITEM_SIZES[stream.dtype]) or any(axis.strides[number] % lanes for axis in outer):
                return False
        return row.strides[0] == 1


def _positions(index: Expr, sizes: Sequence[int]) -> list[Any]:
    """The indices of nested loops of these sizes in their iteration number `index`."""
    positions = []
    rest = math.prod(sizes)
    for number, size in enumerate(sizes):
        rest //= size
        position = index // rest if rest > 1 else index
        positions.append(position if number == 0 else position % size)
    return positions


def _loaded(memory: Memory, offset: Expr, step: int, lanes: int) -> Memory:
    """The elements of an operand in registers: one where they are all the same, else `lanes`, `step` apart."""
    elements = local(lanes if step else 1, memory.dtype)
    if step == 1:
        elements.set_vector(0, lanes, memory.vector(offset, lanes))
        return elements
    for lane in range(lanes if step else 1):
        elements[lane] = memory[offset + lane * step]
    return elements


def _store(memory: Memory, offset: Expr, step: int, elements: Memory, lanes: int) -> None:
    if step == 1:
        memory.set_vector(offset, lanes, elements.vector(0, lanes))
        return
    for lane in range(lanes):
        memory[offset + lane * step] = elements[lane]
