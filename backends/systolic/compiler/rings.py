"""Memory on the chip as a ring: what is placed in it stays until something else needs the room."""

from __future__ import annotations

from collections.abc import Hashable

from ....errors import InternalError


class Ring:
    """Words `low` to `high` - 1 of a memory, given out one after another and from the start again."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self._next = low
        self._places: dict[Hashable, tuple[int, int]] = {}

    def place(self, key: Hashable, words: int) -> tuple[int, bool]:
        """The address of what `key` names, and whether it must be filled anew."""
        if key in self._places:
            return self._places[key][0], False
        if words > self.high - self.low:
            raise InternalError(f"{words} words must fit a ring of {self.high - self.low}")
        start = self._next if self._next + words <= self.high else self.low
        self._next = start + words
        self._places = {
            old: (address, size)
            for old, (address, size) in self._places.items()
            if address + size <= start or self._next <= address
        }
        self._places[key] = (start, words)
        return start, True

    def reserve(self, words: int) -> None:
        """Begin at the start again unless so many words follow one another from here."""
        if self._next + words > self.high:
            self._next = self.low
