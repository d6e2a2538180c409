"""Ordering between units: which earlier instructions each one must wait for, as tokens that the units exchange.

Instructions come in an order in which running them one by one is right. Two that touch the same words, one of them
writing, must stay in that order. Within a unit they do; between units the later one waits for a token of the earlier.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ....errors import InternalError
from ..architecture import Architecture, Memory, Unit
from ..instructions import Instruction, Load, Multiply, Store, Vector
from ..instructions.base import pixel_runs, span
from ..timing import TOKEN_LIMIT

MOST_ACCESSES = 96  # that are told apart in a memory
OUTSTANDING = 6  # tokens of a channel that may be out in program order; units that run ahead add their queue's length
CREDITS = TOKEN_LIMIT - OUTSTANDING  # tokens that may be out while units run ahead, where queues are long


@dataclass(frozen=True)
class Range:
    """Words `low` to `high` - 1 of a memory, read or written."""

    memory: Memory
    low: int
    high: int
    write: bool


def ranges(instruction: Instruction, architecture: Architecture) -> list[Range]:
    """Ranges that hold all words that an instruction touches."""
    match instruction:
        case Load():
            first = instruction.first_word(architecture)
            found = [Range(instruction.memory, first, first + instruction.words, True)]
        case Multiply():
            runs = []
            for row, rows, width in pixel_runs(instruction.pixels, instruction.width):
                levels = ((rows, instruction.stride_row), (width, instruction.stride_pixel), *instruction.window)
                start = instruction.activation + row * instruction.stride_row
                runs.append(span(start, *levels, words=instruction.blocks))
            weights = instruction.outputs * instruction.terms(architecture.columns)
            sums = span(
                instruction.accumulator, (instruction.outputs, instruction.stride_output), words=instruction.pixels
            )
            found = [
                Range(Memory.ACTIVATIONS, min(low for low, _ in runs), max(high for _, high in runs), False),
                Range(Memory.WEIGHTS, instruction.weight, instruction.weight + weights, False),
                Range(Memory.ACCUMULATORS, *sums, True),
            ]
        case Vector():
            found = _vector_ranges(instruction, architecture)
        case Store():
            source = span(instruction.source, *instruction.source_levels)
            found = [Range(instruction.memory, *source, False)]
        case _:
            raise InternalError(f"{instruction.mnemonic} must be ordered by its unit, but no rule says what it touches")
    dram = instruction.dram_span()
    if dram is not None:
        found.append(Range(Memory.DRAM, *dram, isinstance(instruction, Store)))
    return found


def _vector_ranges(vector: Vector, architecture: Architecture) -> list[Range]:
    runs = [
        span(vector.input + row * vector.stride_row, *vector.input_levels(rows, width))
        for row, rows, width in pixel_runs(vector.pixels, vector.width)
    ]
    found = [
        Range(vector.source, min(low for low, _ in runs), max(high for _, high in runs), False),
        Range(Memory.ACTIVATIONS, *span(vector.output, *vector.output_levels), True),
    ]
    if vector.add_residual:
        found.append(Range(Memory.ACTIVATIONS, *span(vector.residual_input, *vector.residual_levels), False))
    if vector.requantize:
        found.append(Range(Memory.PARAMETERS, vector.parameter, vector.parameter + 16 * vector.blocks, False))
    if vector.use_table:
        words = architecture.table_words
        found.append(Range(Memory.TABLES, vector.table * words, (vector.table + 1) * words, False))
    return found


class _Access(NamedTuple):
    """Words `low` to `high` - 1 that the instruction at `position`, of a unit, read or wrote."""

    low: int
    high: int
    write: bool
    unit: Unit
    position: int


@dataclass
class _History:
    """Who touched the words of one memory last."""

    accesses: list[_Access] = field(default_factory=list)

    def touch(self, new: _Access, needed: dict[Unit, int]) -> None:
        """Note an access, and in `needed` the last instruction of each other unit that it must follow."""
        low, high, write, unit, _ = new
        kept = []
        for old in self.accesses:
            if old.high <= low or high <= old.low:
                kept.append(old)
                continue
            if (write or old.write) and old.unit is not unit:
                needed[old.unit] = max(needed.get(old.unit, -1), old.position)
            # what follows the new access follows the old one too, if the new one holds all its words
            follows = write or (old.unit is unit and not old.write)
            if not follows or old.low < low or high < old.high:
                kept.append(old)
        kept.append(new)
        half = len(kept) // 2
        self.accesses = kept if len(kept) <= MOST_ACCESSES else _blurred(kept[:half]) + kept[half:]


def _blurred(accesses: Sequence[_Access]) -> list[_Access]:
    """One access for all of a unit and kind, to keep histories short: it orders more than it must, but long ago."""
    found: dict[tuple[Unit, bool], _Access] = {}
    for new in accesses:
        key = new.unit, new.write
        old = found.get(key, new)
        low, high, position = min(old.low, new.low), max(old.high, new.high), max(old.position, new.position)
        found[key] = _Access(low, high, new.write, new.unit, position)
    return list(found.values())


def ordered(instructions: Sequence[Instruction], architecture: Architecture, constants: int) -> list[Instruction]:
    """The instructions with tokens, and with the banks that they touch. DRAM from `constants` on is never written."""
    histories = {memory: _History() for memory in Memory}
    pairs: dict[tuple[Unit, Unit], list[Pair]] = {(a, b): [] for a in Unit for b in Unit if a is not b}
    of_unit: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    masks = []
    for index, instruction in enumerate(instructions):
        unit = instruction.unit
        assert unit is not None
        of_unit[unit].append(index)
        touched = ranges(instruction, architecture)
        masks.append(_masks(touched, architecture))
        needed: dict[Unit, int] = {}
        for one in touched:
            if one.memory is Memory.DRAM and one.low >= constants:
                continue
            histories[one.memory].touch(_Access(one.low, one.high, one.write, unit, index), needed)
        for giver, last in needed.items():
            known = pairs[giver, unit]
            if not known or last > known[-1][0]:
                known.append((last, index))
    kept = {channel: limited(some, of_unit[channel[1]], OUTSTANDING) for channel, some in pairs.items()}
    if architecture.queue_depth > TOKEN_LIMIT - OUTSTANDING - 1:
        for (giver, taker), some in list(kept.items()):
            kept[taker, giver] = joined(kept[taker, giver], credits_of(some))
    waits, signals = [0] * len(instructions), [0] * len(instructions)
    for (giver, taker), some in kept.items():
        for signal, wait in some:
            signals[signal] |= 1 << taker
            waits[wait] |= 1 << giver
    return [
        replace(instruction, waits=waits[i], signals=signals[i], **masks[i])
        for i, instruction in enumerate(instructions)
    ]


Pair = tuple[int, int]
"""The index of an instruction that gives a token, and that of the later one which takes it."""


def limited(pairs: Sequence[Pair], takers: Sequence[int], limit: int) -> list[Pair]:
    """Pairs that order no less, of which at most `limit` have given and not taken at any place of the program.

    `takers` are the indices of all instructions that may take a token, ascending. A token that would be out too long
    is taken by an earlier instruction, or is not given: the next one then stands for it.
    """
    kept: list[Pair] = []
    for signal, wait in pairs:
        while len(kept) >= limit and kept[-limit][1] > signal:
            oldest = len(kept) - limit
            free = kept[oldest - 1][1] if oldest else -1
            position = bisect_left(takers, signal) - 1  # the last taker before this signal
            earlier = takers[position] if position >= 0 else -1
            if earlier > max(kept[oldest][0], free):
                kept[oldest] = (kept[oldest][0], earlier)
            else:  # the next token, given later, is what the same instruction waits for
                following = kept[oldest + 1][0] if limit > 1 else signal
                wait_of_oldest = kept[oldest][1]
                if limit > 1:
                    kept[oldest : oldest + 2] = [(following, wait_of_oldest)]
                else:
                    kept.pop()
                    wait = wait_of_oldest
        kept.append((signal, wait))
    return kept


def credits_of(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs for the way back: no token is given before the one CREDITS tokens earlier was taken.

    Queues longer than a counter counts would otherwise let a unit run so far ahead of the next.
    """
    return [(taken, given) for (_, taken), (given, _) in zip(pairs, pairs[CREDITS:], strict=False)]


def joined(first: Sequence[Pair], second: Sequence[Pair]) -> list[Pair]:
    """Pairs of one channel that order all that both lists of pairs order."""
    needed: dict[int, int] = {}
    for signal, wait in (*first, *second):
        needed[wait] = max(signal, needed.get(wait, -1))
    kept: list[Pair] = []
    for wait in sorted(needed):
        if not kept or needed[wait] > kept[-1][0]:
            kept.append((needed[wait], wait))
    return kept


def _masks(touched: Sequence[Range], architecture: Architecture) -> dict[str, int]:
    found = {"activation_reads": 0, "activation_writes": 0, "accumulator_banks": 0}
    for one in touched:
        if one.memory is Memory.ACTIVATIONS:
            name = "activation_writes" if one.write else "activation_reads"
        elif one.memory is Memory.ACCUMULATORS:
            name = "accumulator_banks"
        else:
            continue
        words = architecture.bank_words(one.memory)
        for bank in range(one.low // words, (one.high - 1) // words + 1):
            found[name] |= 1 << bank
    return found
