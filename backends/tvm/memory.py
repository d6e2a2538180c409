"""The memory plan: storages of the arena get offsets so that no two that live at the same time overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .views import Storage

ALIGNMENT = 64

_ATTEMPTS = 32


@dataclass(frozen=True)
class Lifetime:
    """A storage is in use from call `first` to call `last`, both included."""

    storage: Storage
    first: int
    last: int


def plan(lifetimes: Sequence[Lifetime]) -> int:
    """Set the offset of every storage; return the bytes the arena needs.

    Greedy by size: the largest storage first, each at the lowest gap that fits among those alive at the same time
    (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020). While that needs more than
    the peak, it is tried again with the storage that sticks out placed first.
    """
    order = sorted(lifetimes, key=lambda item: (-item.storage.bytes, item.first))
    least = peak(lifetimes)
    best: dict[Lifetime, int] = {}
    total = -1
    for _ in range(_ATTEMPTS):
        offsets = _place(order)
        ends = {item: offset + aligned(item.storage.bytes) for item, offset in offsets.items()}
        needed = max(ends.values(), default=0)
        if total < 0 or needed < total:
            best, total = offsets, needed
        if total == least:
            break
        outermost = max(ends, key=ends.__getitem__)
        order.remove(outermost)
        order.insert(0, outermost)
    for item, offset in best.items():
        item.storage.offset = offset
    return total


def _place(order: Sequence[Lifetime]) -> dict[Lifetime, int]:
    """The offset of each storage, each put into the tightest gap that those before it leave, or beyond them."""
    offsets: dict[Lifetime, int] = {}
    for lifetime in order:
        size = aligned(lifetime.storage.bytes)
        neighbours = sorted(
            (offset, aligned(other.storage.bytes))
            for other, offset in offsets.items()
            if other.first <= lifetime.last and lifetime.first <= other.last
        )
        best, best_gap, end = -1, -1, 0
        for offset, other_size in neighbours:
            gap = offset - end
            if gap >= size and (best < 0 or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, offset + other_size)
        offsets[lifetime] = best if best >= 0 else end
    return offsets


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
