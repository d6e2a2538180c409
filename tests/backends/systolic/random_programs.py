"""Hypothesis strategies: whole programs, made of random instructions and the tokens that they need."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from fxpress.backends.systolic.architecture import Architecture, Memory, Unit
from fxpress.backends.systolic.instructions import Halt, Instruction, Load, Multiply, Store, with_banks
from fxpress.backends.systolic.instructions.base import Addresses
from fxpress.backends.systolic.program import Segment, SystolicProgram
from hypothesis import strategies as st
from naive_machine import random_records
from random_instructions import DRAM_WORDS, loads, multiplications, stores, vectors

Kind = Callable[[Architecture], st.SearchStrategy[Instruction]]
KINDS: tuple[Kind, ...] = (loads, multiplications, vectors, stores)


@dataclass
class Ordering:
    """Adds the tokens that make a program mean the same at every speed, and takes the order from the program."""

    architecture: Architecture
    instructions: list[Instruction] = field(default_factory=list)
    order: dict[Unit, list[int]] = field(default_factory=lambda: {unit: [] for unit in Unit})
    # how many instructions of a unit are known to be done when the next one of another starts
    known: dict[tuple[Unit, Unit], int] = field(default_factory=dict)
    touched: dict[tuple[Unit, Memory, bool], list[tuple[int, Addresses]]] = field(default_factory=dict)

    def append(self, instruction: Instruction, extra_tokens: Sequence[Unit] = ()) -> None:
        """Add an instruction, which awaits what it must and one token of each unit of `extra_tokens` that has one."""
        unit = instruction.unit
        assert unit is not None
        waits = 0
        for other in Unit:
            if other is unit or not self.order[other]:
                continue
            if self._last_conflict(instruction, other) >= self.known.get((other, unit), 0) or other in extra_tokens:
                waits |= self._token(other, unit)
        position = len(self.order[unit])
        for access in instruction.accesses(self.architecture):
            self.touched.setdefault((unit, access.memory, access.write), []).append((position, access.addresses))
        self.order[unit].append(len(self.instructions))
        self.instructions.append(replace(instruction, waits=waits))

    def _token(self, giver: Unit, taker: Unit) -> int:
        """A token from the giver's last instruction, if it has not given it before."""
        last = self.order[giver][-1]
        if self.instructions[last].signals >> taker & 1:
            return 0
        self.instructions[last] = replace(self.instructions[last], signals=self.instructions[last].signals | 1 << taker)
        self.known[giver, taker] = len(self.order[giver])
        return 1 << giver

    def _last_conflict(self, instruction: Instruction, other: Unit) -> int:
        """The position in another unit of its last instruction that changes what this one touches, or vice versa."""
        found = -1
        for access in instruction.accesses(self.architecture):
            for write in (True, False) if access.write else (True,):
                for position, addresses in self.touched.get((other, access.memory, write), ()):
                    if position > found and np.intersect1d(addresses, access.addresses).size:
                        found = position
        return found


def record_words(architecture: Architecture) -> int:
    """Words of parameter memory that hold whole records; as many lie in DRAM behind the random data."""
    return architecture.words(Memory.PARAMETERS) // 16 * 16


def begin(architecture: Architecture) -> Ordering:
    """Instructions that load random data and all records."""
    ordering = Ordering(architecture)
    ordering.append(Load(memory=Memory.PARAMETERS, dram=DRAM_WORDS, count_x=record_words(architecture)))
    for memory in (Memory.ACTIVATIONS, Memory.WEIGHTS):
        words = min(architecture.words(memory), DRAM_WORDS)
        load = Load(memory=memory, count_x=words, destination=architecture.words(memory) - words)
        ordering.append(with_banks(load, architecture))
    return ordering


def finish(ordering: Ordering, chance: random.Random) -> SystolicProgram:
    """The program: after all others, instructions that store what the memories hold."""
    architecture = ordering.architecture
    records = record_words(architecture)
    place = DRAM_WORDS + records
    for memory, pieces in ((Memory.ACTIVATIONS, 1), (Memory.ACCUMULATORS, 4)):
        words = architecture.words(memory)
        store = Store(memory=memory, dram=place, count_x=words, stride_x=pieces)
        ordering.append(with_banks(store, architecture))
        place += words * pieces
    data = bytes(chance.randrange(256) for _ in range(DRAM_WORDS * architecture.columns))
    content = bytes(byte & 255 for word in random_records(architecture, chance)[:records] for byte in word)
    program = SystolicProgram.of(
        [*ordering.instructions, Halt()],
        architecture=architecture,
        dram_words=place,
        constants=(Segment(0, data), Segment(DRAM_WORDS * architecture.columns, content)),
    )
    program.check()
    return program


def locked(architecture: Architecture, instruction: Instruction, more: Sequence[int] = (0, 0, 0)) -> Instruction:
    """The instruction with the banks that it touches and `more` of activations' reads, writes and accumulators."""
    banks = (architecture.activation_banks, architecture.activation_banks, architecture.accumulator_banks)
    names = ("activation_reads", "activation_writes", "accumulator_banks")
    exact = with_banks(instruction, architecture)
    masks = {
        name: getattr(exact, name) | mask & ((1 << count) - 1)
        for name, mask, count in zip(names, more, banks, strict=True)
    }
    return replace(exact, **masks)


@st.composite
def programs(
    draw: st.DrawFn, architecture: Architecture, kinds: Sequence[Kind] = KINDS, most: int = 12
) -> SystolicProgram:
    """A program of up to `most` random instructions, some of them several times in a row."""
    ordering = begin(architecture)
    masks = st.tuples(*[st.integers(0, 255)] * 3)
    for _ in range(draw(st.integers(1, most))):
        instruction = draw(draw(st.sampled_from(kinds))(architecture))
        if isinstance(instruction, Load) and instruction.memory is Memory.PARAMETERS:
            first = 16 * draw(st.integers(0, record_words(architecture) // 16 - 1))
            instruction = Load(memory=Memory.PARAMETERS, dram=DRAM_WORDS + first, count_x=16, destination=first)
        if isinstance(instruction, Multiply) and architecture.dataflow != "both":
            instruction = replace(instruction, stationary=architecture.dataflow == "ws")
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 12]))):  # many in a row fill queues and pipelines
            more = draw(masks) if draw(st.integers(0, 3)) == 0 else (0, 0, 0)
            tokens = [unit for unit in Unit if draw(st.integers(0, 9)) == 0]
            ordering.append(locked(architecture, instruction, more), tokens)
    return finish(ordering, random.Random(draw(st.integers(0, 9999))))
