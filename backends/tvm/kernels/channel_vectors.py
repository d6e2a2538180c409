"""Bytes of channels (or columns) cut into the vectors of a register tile whose sums lie in four vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tvm.tirx.script import builder as B

from .base import Expr
from .interleave import BLOCK, QUAD


@dataclass(frozen=True)
class Channels:
    """Channels cut into `full` vectors of `width` and a last one of `last`, which begins at channel `last_start`.

    The last is moved back over its neighbour rather than cut off. Where there are fewer channels than the narrowest
    vector has bytes, it is the only one, and `count` says how many of its channels there are.
    """

    width: int
    full: int
    last: int
    last_start: int
    count: int

    @classmethod
    def cut(cls, channels: int, widest: int) -> Channels:
        """The vectors for that many channels."""
        if channels < BLOCK:
            return cls(BLOCK, 0, BLOCK, 0, channels)
        width = min(widest, 1 << (channels.bit_length() - 1))
        full, rest = divmod(channels, width)
        last = max(BLOCK, 1 << (rest - 1).bit_length()) if rest else 0
        return cls(width, full, last, channels - last, last)

    @property
    def vectors(self) -> int:
        """How many vectors."""
        return self.full + (self.last > 0)

    @property
    def places(self) -> int:
        """The bytes of all vectors together."""
        return self.full * self.width + self.last

    def parts(self, values: torch.Tensor) -> list[torch.Tensor]:
        """What each vector has of values that have one entry a channel in dimension 0; zeros where it has no more."""
        first = [values[i * self.width : (i + 1) * self.width] for i in range(self.full)]
        if not self.last:
            return first
        rest = values[self.last_start :]
        return [*first, torch.cat([rest, values.new_zeros(self.last - rest.shape[0], *values.shape[1:])])]

    def vector(self, number: Expr) -> Vector:
        """One of the full vectors."""
        start = B.bind(number * self.width)
        return Vector(self.width, start, start, self.width)

    def last_vector(self) -> Vector:
        """The last vector."""
        return Vector(self.last, B.int32(self.last_start), B.int32(self.full * self.width), self.count)


@dataclass(frozen=True)
class Vector:
    """One vector of channels: its bytes, its first channel, its place in packed constants, how many channels it has."""

    width: int
    channel: Expr
    place: Expr
    count: int

    @property
    def lanes(self) -> int:
        """32-bit lanes of one of the four vectors of sums."""
        return self.width // QUAD
