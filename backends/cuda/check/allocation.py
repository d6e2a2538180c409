"""The memories that a kernel names: parameters, and what it allocates for each block and each thread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .compiler import Compiler
from .dtypes import split
from .memory import Memory, Pointer, SharedWindow
from .races import Tracker
from .state import State
from .threads import Array

PADDING = 16  # allocations are a multiple of this many bytes, so that every dtype fits


@dataclass(frozen=True)
class Allocation:
    """Memory of each block (scope "shared" or "shared.dyn") or of each thread ("local"): `size` bytes."""

    slot: int
    name: str
    scope: str
    size: int
    granule: int


def granules(c: Compiler) -> dict[int, int]:
    """Bytes of the smallest element of the buffers that point into each allocation or parameter."""
    found: dict[int, int] = {}
    for slot, size in c.items.items():
        root = c.root(slot)
        found[root] = min(size, found.get(root, size))
    return found


def allocations(c: Compiler) -> list[Allocation]:
    """What a compiled kernel allocates."""
    smallest = granules(c)
    found = []
    for slot, buffer in c.allocations:
        scope = str(buffer.scope())
        if scope not in ("local", "shared", "shared.dyn"):
            c.unknown(f"allocation {buffer.name} of scope {scope}")
        dtype, lanes = split(str(buffer.dtype))
        size = math.prod(int(extent) for extent in buffer.shape) * dtype.itemsize * lanes
        name = str(buffer.name) or f"{scope.partition('.')[0]} memory"
        found.append(Allocation(slot, name, scope, size, smallest[slot]))
    return found


def global_memories(c: Compiler, arrays: Mapping[int, tuple[str, Array]]) -> dict[int, Memory]:
    """The memories of parameters, given their names and arrays by slot. Only what the kernel writes can have races."""
    smallest = granules(c)
    loaded, stored = ({c.root(slot) for slot in slots} for slots in (c.loaded, c.stored))
    memories = {}
    for slot, (name, array) in arrays.items():
        data = array.reshape(-1).view(np.uint8).reshape(1, -1)
        granule = smallest.get(slot, 1)
        tracker = None
        if slot in stored:
            count = -(-data.shape[1] // granule)
            tracker = Tracker(name, count, private=False, written=True, reads=slot in loaded)
        memories[slot] = Memory(name, "global", data, data.shape[1], granule, tracker)
    return memories


def allocate(c: Compiler, s: State, planned: Sequence[Allocation]) -> None:
    """Make the shared memory of each block and the registers of each thread of a batch, none of it written."""
    c.window = SharedWindow()
    for each in planned:
        shared = each.scope != "local"
        rows = s.batch.blocks if shared else s.batch.size
        width = -(-each.size // PADDING) * PADDING
        data = np.zeros((rows, width), dtype=np.uint8)
        tracker = None
        if shared:
            tracker = Tracker(each.name, rows * width // each.granule, private=True, written=False, reads=True)
        memory = Memory(each.name, "shared" if shared else "local", data, each.size, each.granule, tracker)
        if shared:
            c.window.place(memory)
        s.variables[each.slot] = Pointer(memory, np.asarray(0))
