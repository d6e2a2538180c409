"""The threads of a launch, some blocks of it at a time, as NumPy arrays with one entry for each thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

WARP = 32  # threads that run together
MAX_BATCH = 8192  # threads that are evaluated together: enough that NumPy's own cost for a call is small
TAGS = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")

Array = np.ndarray[Any, np.dtype[Any]]
Triple = tuple[int, int, int]


def coordinates(linear: Array, extents: Triple) -> tuple[Array, Array, Array]:
    """The (x, y, z) of linear positions in a box, x fastest, as CUDA numbers threads."""
    x, rest = linear % extents[0], linear // extents[0]
    return x, rest % extents[1], rest // extents[1]


@dataclass(frozen=True)
class Launch:
    """How many blocks and threads a kernel is launched with."""

    grid: Triple
    block: Triple

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    def batches(self, blocks: Iterable[int] | None = None) -> Iterator[Batch]:
        """These blocks by number, x fastest, or all, in batches of adjacent ones with about `MAX_BATCH` threads."""
        size = max(1, MAX_BATCH // self.threads)
        first = end = 0
        for number in range(self.blocks) if blocks is None else sorted(set(blocks)):
            if number == end and end - first < size:
                end += 1
                continue
            if end > first:
                yield Batch(self, first, end - first)
            first, end = number, number + 1
        if end > first:
            yield Batch(self, first, end - first)


class Batch:
    """Some consecutive blocks of a launch. Arrays have an entry for each thread, those of a block together.

    `number` counts threads over the whole launch; `row` is a thread's position in the batch, `block` its block's;
    `warp` numbers warps over the batch, since a block of 48 threads has two. `lane` is the position in the warp.
    """

    def __init__(self, launch: Launch, first: int, blocks: int) -> None:
        threads = launch.threads
        self.launch = launch
        self.first = first
        self.blocks = blocks
        self.threads = threads
        self.size = blocks * threads
        self.row = np.arange(self.size, dtype=np.int64)
        self.number = self.row + first * threads
        self.block = self.row // threads
        in_block = self.row % threads
        self.lane = in_block % WARP
        self.block_warps = -(-threads // WARP)
        self.warps = blocks * self.block_warps
        self.warp = self.block * self.block_warps + in_block // WARP
        self.slot = self.warp * WARP + self.lane  # position in an array of whole warps
        position = coordinates(self.block + first, launch.grid) + coordinates(in_block, launch.block)
        self.index = {tag: values.astype(np.int32) for tag, values in zip(TAGS, position, strict=True)}

    @property
    def whole_warps(self) -> bool:
        """Whether every warp has all of its threads."""
        return self.threads % WARP == 0

    def to_warps(self, values: Array, fill: Any = 0) -> Array:
        """One value a thread as [warps, 32]; lanes that do not exist hold `fill`."""
        if self.whole_warps:
            return values.reshape(self.warps, WARP, *values.shape[1:])
        out = np.full((self.warps * WARP, *values.shape[1:]), fill, dtype=values.dtype)
        out[self.slot] = values
        return out.reshape(self.warps, WARP, *values.shape[1:])

    def from_warps(self, values: Array) -> Array:
        """The inverse of `to_warps`."""
        flat = values.reshape(self.warps * WARP, *values.shape[2:])
        return flat if self.whole_warps else flat[self.slot]

    def place(self, row: int) -> tuple[Triple, Triple]:
        """The block and thread indices of one thread of the batch."""
        values = [int(self.index[tag][row]) for tag in TAGS]
        return (values[0], values[1], values[2]), (values[3], values[4], values[5])

    def place_of(self, number: int) -> tuple[Triple, Triple]:
        """The block and thread indices of a thread by its number in the launch."""
        block, thread = divmod(number, self.launch.threads)
        b = coordinates(np.array(block), self.launch.grid)
        t = coordinates(np.array(thread), self.launch.block)
        return (int(b[0]), int(b[1]), int(b[2])), (int(t[0]), int(t[1]), int(t[2]))
