"""LOADs of a tile: rows of columns of words, wherever they lie, with padding around."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..architecture import Memory
from ..instructions import Load
from .views import Table


@dataclass(frozen=True)
class Level:
    """Indices of a loop: how many, DRAM words from one to the next, and how many at both ends are padding."""

    count: int
    stride: int
    before: int = 0
    after: int = 0


def padded(first: int, count: int, step: int, size: int, stride: int) -> Level:
    """The indices first, first + step, ... of an axis with `size` elements; those outside of it are padding."""
    before = min(count, max(0, -(first // step)))
    inside = max(0, -((first - size) // step))  # so many indices lie before the end
    return Level(count, stride * step, before, count - max(before, min(count, inside)))


def load_nest(
    memory: Memory, destination: int, dram: int, rows: Level, columns: Level, words: Table, padding: int, layer: int
) -> Iterator[Load]:
    """Loads that fill memory from `destination` with [row][column][word]; `words` are ascending offsets of a pixel."""
    width = len(words)
    run, runs, step = _runs(words)
    if runs == 1:
        yield _load(memory, destination, dram + int(words[0]), rows, columns, Level(run, 1), padding, layer)
        return
    for row in range(rows.count):
        start = destination + row * columns.count * width
        base = dram + row * rows.stride + int(words[0])
        outside = row < rows.before or row >= rows.count - rows.after
        if outside:
            whole = Level(columns.count * width, 1)
            yield _load(memory, start, dram, Level(1, 0, 1), Level(1, 0), whole, padding, layer)
        elif step:
            yield _load(memory, start, base, columns, Level(runs, step), Level(run, 1), padding, layer)
        else:
            yield from _scattered(memory, start, dram + row * rows.stride, columns, words, padding, layer)


def _scattered(
    memory: Memory, destination: int, dram: int, columns: Level, words: Table, padding: int, layer: int
) -> Iterator[Load]:
    for column in range(columns.count):
        outside = column < columns.before or column >= columns.count - columns.after
        start, base = destination + column * len(words), dram + column * columns.stride
        if outside:
            yield _load(memory, start, dram, Level(1, 0, 1), Level(1, 0), Level(len(words), 1), padding, layer)
            continue
        cuts = [0, *(np.flatnonzero(np.diff(words) != 1) + 1).tolist(), len(words)]
        for low, high in itertools.pairwise(cuts):
            first = base + int(words[low])
            yield _load(memory, start + low, first, Level(1, 0), Level(1, 0), Level(high - low, 1), padding, layer)


def _runs(words: Table) -> tuple[int, int, int]:
    """Words as `runs` runs of `run` words that follow one another, `step` apart; step 0 when they are not regular."""
    breaks = np.flatnonzero(np.diff(words) != 1) + 1
    if not len(breaks):
        return len(words), 1, 0
    run = int(breaks[0])
    starts = words[::run]
    regular = len(words) % run == 0 and np.array_equal((starts[:, None] + np.arange(run)).reshape(-1), words)
    steps = np.diff(starts)
    if not regular or (steps != steps[0]).any():
        return 1, len(words), 0
    return run, len(starts), int(steps[0])


def _load(memory: Memory, destination: int, dram: int, z: Level, y: Level, x: Level, padding: int, layer: int) -> Load:
    return Load(
        memory=memory, destination=destination, dram=dram, padding=padding, layer=layer,
        count_x=x.count, stride_x=x.stride, before_x=x.before, after_x=x.after,
        count_y=y.count, stride_y=y.stride, before_y=y.before, after_y=y.after,
        count_z=z.count, stride_z=z.stride, before_z=z.before, after_z=z.after,
    )  # fmt: skip
