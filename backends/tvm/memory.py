"""The memory plan: storages of the arena get offsets so that no two that live at the same time overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .views import Storage

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A storage is in use from call `first` to call `last`, both included."""

    storage: Storage
    first: int
    last: int


def plan(lifetimes: Sequence[Lifetime]) -> int:
    """Set the offset of every storage; return the bytes the arena needs.

    Greedy by size: the largest storage first, each at the lowest gap that fits among those alive at the same time
    (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
    """
    placed: list[Lifetime] = []
    total = 0
    for lifetime in sorted(lifetimes, key=lambda item: (-item.storage.bytes, item.first)):
        size = aligned(lifetime.storage.bytes)
        neighbours = sorted(
            (other.storage.offset, aligned(other.storage.bytes))
            for other in placed
            if other.first <= lifetime.last and lifetime.first <= other.last
        )
        best, best_gap, end = -1, -1, 0
        for offset, other_size in neighbours:
            gap = offset - end
            if gap >= size and (best < 0 or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, offset + other_size)
        lifetime.storage.offset = best if best >= 0 else end
        placed.append(lifetime)
        total = max(total, lifetime.storage.offset + size)
    return total


def peak(lifetimes: Sequence[Lifetime]) -> int:
    """The most bytes alive at any one call: no plan can need less."""
    last = max((item.last for item in lifetimes), default=-1)
    return max(
        (
            sum(aligned(item.storage.bytes) for item in lifetimes if item.first <= call <= item.last)
            for call in range(last + 1)
        ),
        default=0,
    )


def aligned(size: int) -> int:
    """`size` rounded up to a multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT
