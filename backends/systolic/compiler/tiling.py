"""How layers are cut into tiles: every way is tried in a model of the time it takes, and the quickest is kept."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....errors import Unsupported
from ..architecture import RECORD_WORDS, Architecture, Memory
from ..timing import (
    LOAD_LATENCY,
    RECORD_CYCLES,
    STORE_LATENCY,
    VECTOR_LATENCY,
    output_stationary_latency,
    weight_stationary_latency,
)
from .shapes import Shape

Grid = NDArray[np.int64]
STEP_BYTES = 256  # of the instructions of a tile, which also come from somewhere
TOLERANCE = 256  # a tiling is as good as one that is quicker by a smaller fraction than 1 / TOLERANCE


@dataclass(frozen=True)
class Tiling:
    """Sizes of a tile: rows and columns of results, output blocks, source words; and the order of tiles.

    With `weights_first` all pixels pass before the next output blocks; otherwise all output blocks of some pixels come
    first. Sums over source words are innermost. `slots` says how the activation memory is divided: words for source
    tiles, for residual tiles, for results.
    """

    rows: int
    columns: int
    blocks: int
    words: int
    weights_first: bool
    stationary: bool
    source_words: int
    residual_words: int
    output_words: int
    cycles: int
    dram_words: int

    def __str__(self) -> str:
        dataflow = "ws" if self.stationary else "os"
        order = "weights" if self.weights_first else "pixels"
        return (
            f"{self.rows}x{self.columns} pixels, {self.blocks} blocks of {self.words} words, {dataflow}, {order} first"
        )


def sizes(total: int) -> Grid:
    """Tile sizes worth trying: those that cut `total` into equal parts, as nearly as can be."""
    return np.unique([-(-total // parts) for parts in range(1, total + 1)]).astype(np.int64)


@functools.lru_cache(maxsize=4096)
def tile(shape: Shape, architecture: Architecture) -> Tiling | str:
    """The quickest tiling of a layer, or which memory is too small for any, and how large it must be."""
    rows, columns, blocks = sizes(shape.rows), sizes(shape.columns), sizes(shape.blocks)
    words = np.array([shape.words]) if shape.grouped or not shape.array else sizes(shape.words)
    grids = np.meshgrid(rows, columns, blocks, words, indexing="ij")
    th, tw, tn, tk = (grid.reshape(-1) for grid in grids)
    space = _Space(shape, architecture, th, tw, tn, tk)
    lacking = space.lacking()
    if lacking is not None:
        return lacking
    space = space.fitting()
    choices = [
        (stationary, weights_first)
        for stationary in _dataflows(shape, architecture)
        for weights_first in ((False, True) if shape.array and not shape.fresh_weights else (False,))
    ]
    costs = [space.cost(*choice) for choice in choices]
    cycles, busy, dram, steps = (np.concatenate([getattr(c, f) for c in costs]) for f in _Cost._fields)
    good = np.flatnonzero(cycles <= cycles.min() + cycles.min() // TOLERANCE)
    good = good[busy[good] <= busy[good].min() + busy[good].min() // TOLERANCE]
    moved = dram[good] + STEP_BYTES // architecture.columns * steps[good]
    index = int(good[np.lexsort((cycles[good], moved))[0]])
    which, place = divmod(index, len(space.th))
    return space.tiling(place, *choices[which], int(cycles[index]), int(dram[index]))


class _Cost(NamedTuple):
    """Of every tiling: cycles of the whole layer, those of the array alone, DRAM words moved, and tiles."""

    cycles: Grid
    busy: Grid
    dram: Grid
    steps: Grid


def _dataflows(shape: Shape, architecture: Architecture) -> Iterable[bool]:
    if not shape.array:
        return (False,)
    return {"os": (False,), "ws": (True,), "both": (False, True)}[architecture.dataflow]


def _round_up(x: Grid, step: int) -> Grid:
    return -(-x // step) * step


@dataclass
class _Space:
    """All tilings at once: arrays of rows, columns, blocks and words of a tile."""

    shape: Shape
    architecture: Architecture
    th: Grid
    tw: Grid
    tn: Grid
    tk: Grid

    def __post_init__(self) -> None:
        shape, machine = self.shape, self.architecture
        window = shape.window
        (ky, kx), (sy, sx), (dy, dx) = window.kernel, window.stride, window.dilation
        self.pixels = self.th * self.tw
        reach_y = (self.th - 1) * sy + (ky - 1) * dy + 1 if ky > 1 else self.th
        reach_x = (self.tw - 1) * sx + (kx - 1) * dx + 1 if kx > 1 else self.tw
        self.area = reach_y * reach_x
        if shape.grouped:
            read = np.minimum(self.tn * shape.depth, shape.words)
        elif shape.array:
            read = self.tk
        else:
            read = self.tn
        self.source = self.area * read * (not shape.source_kept)
        self.result = self.pixels * self.tn * (not shape.sums)
        residual = self.result * shape.residual
        self.result = self.result * (not shape.output_kept)
        self.weights = self.tn * window.taps * (shape.depth if shape.grouped else self.tk) * machine.columns
        self.weights = self.weights * shape.array
        self.accumulators = self.pixels * self.tn * shape.array
        self.parameters = self.tn * RECORD_WORDS * shape.records
        bank = machine.bank_words(Memory.ACTIVATIONS)
        total = machine.words(Memory.ACTIVATIONS) - shape.reserved
        self.working = self.source + self.result + residual
        self.copies = np.where(self.working + self.result + residual <= total, 2, 1)
        output, residual = self.result * self.copies, residual * self.copies
        banked = self.source + _round_up(output, bank) + _round_up(residual, bank) <= total
        self.output_words = np.where(banked, _round_up(output, bank), output)
        self.residual_words = np.where(banked, _round_up(residual, bank), residual)
        self.source_words = total - self.output_words - self.residual_words

    def slot_words(self) -> int:
        """Accumulator words that a tile may use so that another can be computed meanwhile."""
        machine = self.architecture
        return machine.words(Memory.ACCUMULATORS) // min(2, machine.accumulator_banks)

    def _fits(self) -> dict[Memory, tuple[Grid, int]]:
        machine = self.architecture
        return {
            Memory.ACTIVATIONS: (self.working, machine.words(Memory.ACTIVATIONS) - self.shape.reserved),
            Memory.WEIGHTS: (self.weights, machine.words(Memory.WEIGHTS)),
            Memory.ACCUMULATORS: (self.accumulators, self.slot_words()),
            Memory.PARAMETERS: (self.parameters, machine.words(Memory.PARAMETERS)),
        }  # fmt: skip

    def lacking(self) -> str | None:
        """Which memory is too small for every tiling, with the least that would do; None when one fits."""
        fits = self._fits()
        good = {memory: used <= limit for memory, (used, limit) in fits.items()}
        if np.logical_and.reduce(list(good.values())).any():
            return None
        for memory, (used, limit) in fits.items():
            others = np.logical_and.reduce([fine for other, fine in good.items() if other is not memory])
            if others.any():
                return f"its smallest tile needs {self._least(memory, int(used[others].min()), limit)}"
        smallest = int(np.argmin(sum(used / limit for used, limit in fits.values())))
        needs = [
            self._least(memory, int(used[smallest]), limit)
            for memory, (used, limit) in fits.items()
            if used[smallest] > limit
        ]
        return f"its smallest tile needs {' and '.join(needs)}"

    def _least(self, memory: Memory, used: int, limit: int) -> str:
        """The option of the architecture that makes room for `used` words where there are `limit`."""
        option = f"{memory.name.lower().removesuffix('s')}_kib"
        size = getattr(self.architecture, option)
        least = -(-size * used // limit)
        if memory in (Memory.ACTIVATIONS, Memory.ACCUMULATORS):
            least = 1 << (least - 1).bit_length()  # banks are told apart by bits of addresses
        return f"{option}={least} (it is {size})"

    def fitting(self) -> _Space:
        """Only the tilings that fit."""
        good = np.ones(len(self.th), bool)
        for used, limit in self._fits().values():
            good &= used <= limit
        good &= (
            self.pixels if self.shape.array else self.pixels * self.tn
        ) < 1 << 16  # what fields of instructions hold
        return _Space(self.shape, self.architecture, *(x[good] for x in (self.th, self.tw, self.tn, self.tk)))

    def cost(self, stationary: bool, weights_first: bool) -> _Cost:
        """What every tiling costs."""
        shape, machine = self.shape, self.architecture
        count_y, count_x = -(-shape.rows // self.th), -(-shape.columns // self.tw)
        tiles = shape.outer * count_y * count_x
        parts_n, parts_k = -(-shape.blocks // self.tn), -(-shape.words // self.tk)
        if shape.grouped or not shape.array:
            parts_k = np.ones_like(parts_k)
        source_slots = self.source_words // np.maximum(self.source, 1)
        weight_slots = machine.words(Memory.WEIGHTS) // np.maximum(self.weights, 1)

        # how often each source word, and each weight, is loaded
        if not shape.array or shape.grouped:
            source_times = np.ones_like(tiles)
        elif weights_first:
            source_times = np.where(source_slots >= tiles * parts_k, 1, parts_n)
        else:
            source_times = np.where(source_slots >= parts_k, 1, parts_n)
        all_parts = parts_n * parts_k
        if weights_first:
            weight_times = np.where(weight_slots >= parts_k, 1, tiles)
        elif shape.fresh_weights:
            pixel_tiles = count_y * count_x
            weight_times = np.where(weight_slots >= all_parts, 1, pixel_tiles) * shape.outer
        else:
            weight_times = np.where(weight_slots >= all_parts, 1, tiles)
        read = shape.blocks * shape.depth if shape.grouped else shape.words
        read = min(read, shape.words) if shape.depth == 1 else read
        source_total = tiles * self.area * read * source_times * (not shape.source_kept)
        depth = shape.depth if shape.grouped else shape.words
        weight_total = shape.blocks * shape.window.taps * depth * machine.columns * weight_times * shape.array
        residual_total = shape.outer * shape.rows * shape.columns * shape.blocks * shape.residual
        record_total = shape.blocks * RECORD_WORDS * tiles * shape.records  # loaded again where tiles are many
        record_total = np.where(shape.blocks * RECORD_WORDS <= machine.words(Memory.PARAMETERS), 0, record_total)
        pieces = 4 if shape.sums else 1
        stored = shape.outer * shape.rows * shape.columns * shape.blocks * pieces
        load = (source_total + weight_total + residual_total + record_total) * machine.beats
        stored *= shape.stored
        store = np.full_like(load, stored * machine.beats)

        # sums: every tile size that occurs, full or rest, in rows and columns
        steps = tiles * parts_n
        array = np.zeros_like(load)
        pixels = np.zeros_like(load)
        for height, many_y in _parts(shape.rows, self.th):
            for width, many_x in _parts(shape.columns, self.tw):
                some = height * width
                slots = np.maximum(some, machine.rows) if stationary else _round_up(some, machine.rows)
                array = array + np.where(some > 0, slots, 0) * many_y * many_x
                pixels = pixels + some * many_y * many_x
        array = array * shape.outer * shape.blocks * shape.window.taps * depth * machine.columns // machine.rows
        multiplies = tiles * (shape.blocks if shape.grouped else parts_n * parts_k)
        array = (array + multiplies * machine.rows * stationary) * shape.array

        taps = 1 if shape.array else shape.window.taps + shape.residual
        lanes = machine.columns // machine.vector_lanes
        vector = (
            pixels * shape.outer * shape.blocks * taps * lanes + tiles * shape.blocks * RECORD_CYCLES * shape.records
        )
        vector = vector + steps * (VECTOR_LATENCY + 2)
        if shape.output_kept:
            broken = (self.tw < shape.columns) | (shape.run > 0)
            runs = np.where(broken, self.th * -(-self.tw // (shape.run or shape.columns)), 1)
            vector = vector + steps * (runs - 1) * (self.tn * RECORD_CYCLES * shape.records + VECTOR_LATENCY + 2)
        if shape.sums:
            vector = store  # stores read the accumulators
        latency = (weight_stationary_latency if stationary else output_stationary_latency)(machine) * shape.array
        turns = np.minimum(
            machine.accumulator_banks, machine.words(Memory.ACCUMULATORS) // np.maximum(self.accumulators, 1)
        )
        compute = np.maximum(
            np.maximum(array, vector), (array + vector + steps * (latency + 2)) // np.maximum(turns, 1)
        )
        cycles = np.maximum(np.maximum(load, store), compute)
        # one buffer only: what fills it and what reads it take turns
        alone = (source_slots < 2) & (tiles * parts_k * source_times > 1)
        cycles = np.where(alone, np.maximum(cycles, compute + source_total * machine.beats), cycles)
        alone = (weight_slots < 2) & (all_parts * weight_times > 1) & shape.array
        cycles = np.where(alone, np.maximum(cycles, compute + weight_total * machine.beats), cycles)
        cycles = np.where((self.copies < 2) & (steps > 1), np.maximum(cycles, compute + store), cycles)
        first = (self.source + self.weights) * machine.beats + machine.dram_latency + LOAD_LATENCY
        last = vector // steps + latency + self.result * machine.beats + machine.dram_latency + STORE_LATENCY
        return _Cost(cycles + first + last, array, load // machine.beats + stored, steps * parts_k)

    def tiling(self, i: int, stationary: bool, weights_first: bool, cycles: int, dram: int) -> Tiling:
        """One of the tilings."""
        return Tiling(
            int(self.th[i]), int(self.tw[i]), int(self.tn[i]), int(self.tk[i]), weights_first, stationary,
            int(self.source_words[i]), int(self.residual_words[i]), int(self.output_words[i]), cycles, dram,
        )  # fmt: skip


def _parts(total: int, size: Grid) -> list[tuple[Grid, Grid]]:
    """Sizes of parts of `total` with how many there are: the full ones, then the rest."""
    rest = total % size
    return [(size, total // size), (rest, (rest > 0).astype(np.int64))]


def require(found: Tiling | str, name: str, where: str) -> Tiling:
    """The tiling, or Unsupported naming the layer."""
    if isinstance(found, Tiling):
        return found
    at = f" at {where}" if where else ""
    raise Unsupported(f"layer %{name}{at} does not fit: {found}; enlarge it, or cut the layer")
