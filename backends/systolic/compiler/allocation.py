"""Where buffers lie in DRAM: two that are never needed at the same time may share words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .layers import Layer
from .views import Buffer


@dataclass
class Lifetime:
    """The first and the last layer, by index, that need a buffer."""

    first: int
    last: int


def lifetimes(layers: Sequence[Layer], inputs: Iterable[Buffer], results: Iterable[Buffer]) -> dict[Buffer, Lifetime]:
    """When each buffer is needed: inputs from before the first layer, results beyond the last."""
    found: dict[Buffer, Lifetime] = {}
    for index, layer in enumerate(layers):
        for operand in (*layer.operands, layer.output):
            found.setdefault(operand.buffer, Lifetime(index, index)).last = index
    for buffer in inputs:
        found.setdefault(buffer, Lifetime(-1, -1)).first = -1
    for buffer in results:
        found.setdefault(buffer, Lifetime(-1, len(layers))).last = len(layers)
    return found


def allocate(needed: Mapping[Buffer, Lifetime]) -> int:
    """Give every buffer an address, large ones first, each the lowest that is free; return how many words they take."""
    placed: list[Buffer] = []
    for buffer in sorted(needed, key=lambda b: (-b.words, needed[b].first)):
        mine = needed[buffer]
        busy = sorted(
            (other.address, other.address + other.words)
            for other in placed
            if needed[other].first <= mine.last and mine.first <= needed[other].last
        )
        address = 0
        for low, high in busy:
            if address + buffer.words <= low:
                break
            address = max(address, high)
        buffer.address = address
        placed.append(buffer)
    return max((buffer.address + buffer.words for buffer in placed), default=0)
