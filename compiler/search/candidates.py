"""What a search tries next: what its study asks for, but nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .frontier import Point
from .objectives import Objective
from .phases import Candidate, Strategy
from .study import Study

MOST_DUPLICATES = 20
"""So many candidates in a row that were tried already end a search: there is little left to try."""
_Key = tuple[tuple[str, Any], ...]


class Candidates:
    """Candidates of a study that differ from all before; `points` are known from earlier."""

    def __init__(
        self, study: Study, strategy: Strategy, objectives: Sequence[Objective], points: Sequence[Point]
    ) -> None:
        self._study = study
        self._strategy = strategy
        self._objectives = objectives
        self._known = {_key(point.candidate): point for point in points}
        self._numbers: dict[_Key, list[int]] = {}
        """The study's numbers of candidates that are being tried: their points are the answer to each."""

    def next(self) -> tuple[int, Candidate] | None:
        """The number of the next trial, counted from 1, and its candidate; None when there is little left to try."""
        for _ in range(MOST_DUPLICATES):
            number, asked = self._study.ask()
            candidate = self._strategy.canonical(asked)
            key = _key(candidate)
            if key in self._known:
                self._answer(number, self._known[key])
            elif key in self._numbers:
                self._numbers[key].append(number)
            else:
                self._numbers[key] = [number]
                return number, candidate
        return None

    def tell(self, point: Point) -> None:
        """What became of a candidate."""
        key = _key(point.candidate)
        self._known[key] = point
        for number in self._numbers.pop(key):
            self._answer(number, point)

    def _answer(self, number: int, point: Point) -> None:
        self._study.tell(number, [point.value(o) for o in self._objectives] if point.is_whole else None)


def _key(candidate: Candidate) -> _Key:
    return tuple(sorted(candidate.items()))
