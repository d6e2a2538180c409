"""Whether a program means the same at every speed: each access to a word is ordered by tokens or within a unit.

Proved without running: an instruction knows, for each unit, how many of its instructions are done before it starts (a
vector clock, carried by tokens from the done of one instruction to the start of another). A word may be read when its
writers are among those, and replaced when its readers are, too.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ....errors import InvalidInput
from ..architecture import Memory, Unit
from ..instructions import Access, Halt
from ..instructions.base import Addresses, bank_masks
from ..program import SystolicProgram
from ..timing import TOKEN_LIMIT

Clock = list[int]  # for each unit, how many of its instructions are known to be done


class _Shadow:
    """For each word of a memory and each unit, the last instruction of the unit that touched it, or -1."""

    def __init__(self, words: int) -> None:
        self._words = words
        self._last: dict[Unit, NDArray[np.int32]] = {}

    def touch(self, unit: Unit, words: Addresses | slice, position: int) -> None:
        if unit not in self._last:
            self._last[unit] = np.full(self._words, -1, np.int32)
        self._last[unit][words] = position

    def unordered(self, unit: Unit, words: Addresses | slice, clock: Clock) -> tuple[Unit, int, int] | None:
        """Another unit, its instruction and the place in `words` of one that `clock` does not know to be done."""
        for other, last in self._last.items():
            if other is unit:
                continue
            found = last[words]
            place = int(found.argmax())
            if found[place] >= clock[other]:
                return other, int(found[place]), place
        return None

    def untouched(self, words: Addresses | slice) -> int | None:
        """The place in `words` of one that no instruction has touched."""
        last = np.maximum.reduce([last[words] for last in self._last.values()], initial=-1)
        missing = np.atleast_1d(last) < 0
        return int(missing.argmax()) if missing.any() else None


class _Checker:
    def __init__(self, program: SystolicProgram, written_first: bool) -> None:
        self.program = program
        self.written_first = written_first
        sizes = {
            memory: program.dram_words if memory is Memory.DRAM else program.architecture.words(memory)
            for memory in Memory
        }
        self.writers = {memory: _Shadow(words) for memory, words in sizes.items()}
        self.readers = {memory: _Shadow(words) for memory, words in sizes.items()}
        self.order: dict[Unit, list[int]] = {unit: [] for unit in Unit}  # indices of a unit's instructions
        self.clocks: dict[Unit, Clock] = {unit: [0] * len(Unit) for unit in Unit}
        pairs = [(giver, taker) for giver in Unit for taker in Unit if giver != taker]
        self.tokens: dict[tuple[Unit, Unit], deque[tuple[int, Clock]]] = {pair: deque() for pair in pairs}
        self.given = dict.fromkeys(pairs, 0)
        self.taken: dict[tuple[Unit, Unit], list[int]] = {pair: [0] for pair in pairs}  # after so many of the taker's

    def run(self) -> None:
        for index, instruction in enumerate(self.program.instructions):
            if isinstance(instruction, Halt):
                break
            assert instruction.unit is not None
            self._check_banks(index)
            clock = self._start(index, instruction.unit)
            accesses = instruction.accesses(self.program.architecture)
            for write in (False, True):  # what an instruction reads, it reads before it writes
                for access in accesses:
                    if access.write is write and access.addresses.size:
                        self._check_access(index, instruction.unit, access, clock)
            self._finish(index, instruction.unit, clock)
        for (giver, taker), tokens in self.tokens.items():
            if tokens:
                raise InvalidInput(
                    f"{self.program.where(tokens[0][0])}: every token must be awaited, "
                    f"but this one from {giver.name.lower()} to {taker.name.lower()} is not"
                )

    def _check_banks(self, index: int) -> None:
        instruction = self.program.instructions[index]
        for name, needed in bank_masks(instruction, self.program.architecture).items():
            if needed & ~getattr(instruction, name):
                raise InvalidInput(
                    f"{self.program.where(index)}: field {name} must have the banks {needed:#010b}, "
                    f"not {getattr(instruction, name):#010b}: fill it in by with_banks"
                )

    def _start(self, index: int, unit: Unit) -> Clock:
        clock = self.clocks[unit]
        for giver in Unit:
            awaited = self.program.instructions[index].waits >> giver & 1
            if giver is not unit:
                self.taken[giver, unit].append(self.taken[giver, unit][-1] + awaited)
            if not awaited:
                continue
            if not self.tokens[giver, unit]:
                raise InvalidInput(
                    f"{self.program.where(index)}: a token from {giver.name.lower()} must be signalled before it is "
                    "awaited, but no earlier instruction does so"
                )
            _, theirs = self.tokens[giver, unit].popleft()
            clock = [max(pair) for pair in zip(clock, theirs, strict=True)]
        clock = list(clock)
        clock[unit] = len(self.order[unit])
        self.clocks[unit] = clock
        self.order[unit].append(index)
        return clock

    def _finish(self, index: int, unit: Unit, clock: Clock) -> None:
        done = list(clock)
        done[unit] += 1
        for taker in Unit:
            if not self.program.instructions[index].signals >> taker & 1:
                continue
            self.tokens[unit, taker].append((index, done))
            self.given[unit, taker] += 1
            # those known to be done have taken theirs, and so have all those that left the taker's queue
            begun = max(clock[taker], len(self.order[taker]) - self.program.architecture.queue_depth)
            waiting = self.given[unit, taker] - self.taken[unit, taker][begun]
            if waiting > TOKEN_LIMIT:
                raise InvalidInput(
                    f"{self.program.where(index)}: at most {TOKEN_LIMIT} tokens may wait from {unit.name.lower()} to "
                    f"{taker.name.lower()}, but {waiting} can: let {unit.name.lower()} wait for {taker.name.lower()}"
                )

    def _check_access(self, index: int, unit: Unit, access: Access, clock: Clock) -> None:
        words = _as_slice(access.addresses)
        verb = "writes" if access.write else "reads"
        if self.written_first and not access.write and access.memory is not Memory.DRAM:
            place = self.writers[access.memory].untouched(words)
            if place is not None:
                raise InvalidInput(
                    f"{self.program.where(index)}: every word must be written before it is read, but nothing wrote "
                    f"word {_word(words, place)} of the {access.memory.name.lower()} memory"
                )
        for before, shadow in (("writes", self.writers), ("reads", self.readers)):
            if before == verb == "reads":
                continue
            found = shadow[access.memory].unordered(unit, words, clock)
            if found is not None:
                other, position, place = found
                raise InvalidInput(
                    f"{self.program.where(index)} {verb} word {_word(words, place)} of the "
                    f"{access.memory.name.lower()} memory, and must do so after "
                    f"{self.program.where(self.order[other][position])} {before} it: let {other.name.lower()} signal "
                    f"{unit.name.lower()} after that, and await it"
                )
        shadow = self.writers if access.write else self.readers
        shadow[access.memory].touch(unit, words, clock[unit])


def _as_slice(addresses: Addresses) -> Addresses | slice:
    """Addresses in a row as a slice, which is quicker."""
    first, count = int(addresses[0]), addresses.size
    if addresses[-1] - first != count - 1 or (count > 2 and (np.diff(addresses) != 1).any()):
        return addresses
    return slice(first, first + count)


def _word(words: Addresses | slice, place: int) -> int:
    return words.start + place if isinstance(words, slice) else int(words[place])


def check_order(program: SystolicProgram, *, written_first: bool = True) -> None:
    """Raise InvalidInput, naming instructions and layers, for the first thing that depends on the machine's speed.

    Each word is read after the write that made it and before the one that replaces it; counters of tokens never
    overflow, whatever DRAM does, and end at zero; instructions touch only banks that they name. With `written_first`,
    words on the chip are written before they are read.
    """
    program.check()
    _Checker(program, written_first).run()
