"""Geometry of a search's page: plots of two objectives and curves of trainings, as numbers that a template draws."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..search.objectives import QUALITY, Objective
from .quantities import bytes_text

if TYPE_CHECKING:
    from ..search.frontier import Frontier, Point

WIDTH, HEIGHT = 440, 330
LEFT, RIGHT, TOP, BOTTOM = 72, 12, 12, 44  # margins of a plot
CURVE_WIDTH, CURVE_HEIGHT = 360, 150
_CURVE_LEFT, _CURVE_RIGHT, _CURVE_TOP, _CURVE_BOTTOM = 52, 52, 10, 24
_MOST_TICKS = 6
_DECADE = 8  # an axis is logarithmic from about so large a ratio of its ends on


@dataclass(frozen=True)
class Tick:
    """A number on an axis, where it is and how it reads."""

    value: float
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point of a plot, or a peer, which has no number; `low` and `high` are the ends of its whisker."""

    number: int | None
    x: float
    y: float
    low: float | None
    high: float | None
    kind: str
    tip: str


@dataclass(frozen=True)
class Plot:
    """One objective, `y_name`, against another; `front` is the line between what can be had and what cannot."""

    x_name: str
    y_name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark]
    front: str


@dataclass(frozen=True)
class Line:
    """What a training's epochs gave: a polyline, and its least and greatest number."""

    name: str
    points: str
    low: str
    high: str


@dataclass(frozen=True)
class Curve:
    """One training: the phase that it belongs to, its number of epochs and its lines."""

    phase: str
    epochs: int
    lines: list[Line]


def plot_of(frontier: Frontier, y: Objective, x: Objective) -> Plot:
    """The plot of all points that are whole and of the peers that have both objectives."""
    whole = [point for point in (frontier.original, *frontier.tried) if point.is_whole]
    on = {point.number for point in frontier.points}
    peers = {name: peer for name, peer in frontier.peers.items() if x.name in peer and y.name in peer}
    ends = [end for point in whole for end in interval(point, y)]
    least = least_shown(frontier)
    across = Axis([p.value(x) for p in whole] + [peer[x.name] for peer in peers.values()], LEFT, WIDTH - RIGHT, x)
    up = Axis(
        [p.value(y) for p in whole] + [peer[y.name] for peer in peers.values()] + ends, HEIGHT - BOTTOM, TOP, y, least
    )
    marks = []
    for name, peer in peers.items():
        texts = ", ".join(f"{o.name} {o.text(peer[o.name])}" for o in frontier.objectives if o.name in peer)
        place = across.place(peer[x.name]), up.place(peer[y.name])
        marks.append(Mark(None, *place, None, None, "peer", f"{name}\n{texts}"))
    for point in sorted(whole, key=lambda point: (point.number == 0, point.number in on)):
        kind = "original" if point.number == 0 else "on" if point.number in on else "beaten"
        low, high = (up.place(end) for end in interval(point, y)) if interval(point, y) else (None, None)
        name = "the original" if point.number == 0 else f"number {point.number}: {point.describe()}"
        tip = f"{name}\n{frontier.text_of(point)}"
        marks.append(Mark(point.number, across.place(point.value(x)), up.place(point.value(y)), low, high, kind, tip))
    return Plot(x.name, y.name, across.ticks(), up.ticks(), marks, _staircase(whole, across, up, x, y))


def least_shown(frontier: Frontier) -> float:
    """The least quality that plots have room for: that of the worst model with more than half of the original's.

    Models that are good for nothing would press the others together.
    """
    half = frontier.original.value(QUALITY) / 2
    whole = [point.value(QUALITY) for point in (frontier.original, *frontier.tried) if point.is_whole]
    return min(value for value in whole if value > half) if half > 0 else -math.inf


def interval(point: Point, objective: Objective) -> tuple[float, ...]:
    """The ends of the interval of its quality; nothing where there is none."""
    if objective is not QUALITY or point.quality is None or point.quality.low == point.quality.high:
        return ()
    return point.quality.low, point.quality.high


def curves_of(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The trainings of a point: where the phase changes or epochs begin anew, there is another one."""
    found, number, last = [], 0, math.inf
    numbered = []
    for row in rows:
        number += row["epoch"] <= last
        last = row["epoch"]
        numbered.append((number, row.get("phase", "training"), row))
    for (_, phase), group in groupby(numbered, key=lambda entry: entry[:2]):
        epochs = [row for _, _, row in group]
        lines = [
            _line(name, epochs) for name in ("loss", "quality") if any(row.get(name) is not None for row in epochs)
        ]
        found.append(Curve(phase, len(epochs), lines))
    return found


def _line(name: str, rows: Sequence[Mapping[str, Any]]) -> Line:
    values = [(place, float(row[name])) for place, row in enumerate(rows) if row.get(name) is not None]
    low, high = min(value for _, value in values), max(value for _, value in values)
    width, height = CURVE_WIDTH - _CURVE_LEFT - _CURVE_RIGHT, CURVE_HEIGHT - _CURVE_TOP - _CURVE_BOTTOM
    points = " ".join(
        f"{_CURVE_LEFT + width * place / max(len(rows) - 1, 1):.1f},"
        f"{_CURVE_TOP + height * (1 - (value - low) / ((high - low) or 1)):.1f}"
        for place, value in values
    )
    return Line(name, points, f"{low:.3g}", f"{high:.3g}")


def _staircase(whole: Sequence[Point], across: Axis, up: Axis, x: Objective, y: Objective) -> str:
    ordered = sorted(whole, key=lambda point: (x.loss(point.value(x)), y.loss(point.value(y))))
    corners: list[tuple[float, float]] = []
    best = math.inf
    for point in ordered:
        loss = y.loss(point.value(y))
        if loss < best:
            place = (across.place(point.value(x)), up.place(point.value(y)))
            if corners:
                corners.append((place[0], corners[-1][1]))
            corners.append(place)
            best = loss
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)


class Axis:
    """Numbers to places between two ends; logarithmic where they span about a decade."""

    def __init__(
        self, values: Sequence[float], begin: float, end: float, objective: Objective, least: float = -math.inf
    ) -> None:
        """An axis for these values; those of quality that are below `least` lie on its edge."""
        if objective is QUALITY:
            values = [max(value, least) for value in values]
        low, high = min(values), max(values)
        self.is_log = objective is not QUALITY and low > 0 and high / low > _DECADE
        self._begin, self._end, self._objective = begin, end, objective
        low, high = self._scaled(low), self._scaled(high)
        margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        self._low, self._high = low - margin, high + margin

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def place(self, value: float) -> float:
        share = max((self._scaled(value) - self._low) / (self._high - self._low), 0.0)
        return round(self._begin + (self._end - self._begin) * share, 3)

    def ticks(self) -> list[Tick]:
        """Round numbers, as many as are read easily."""
        return [Tick(value, self.place(value), _short(self._objective.text(value))) for value in self._round_values()]

    def _round_values(self) -> list[float]:
        in_bytes = self._objective.text is bytes_text
        if not self.is_log:
            return _multiples(
                self._low, self._high, (1.0,) if in_bytes else (1.0, 2.0, 2.5, 5.0), 2 if in_bytes else 10
            )
        low, high = 10**self._low, 10**self._high
        base, factors = (2, (1.0,)) if in_bytes else (10, (1.0, 2.0, 5.0))
        powers = range(math.floor(math.log(low, base)), math.ceil(math.log(high, base)) + 1)
        found = [value for power in powers for factor in factors if low <= (value := factor * base**power) <= high]
        return found if len(found) <= _MOST_TICKS else found[:: math.ceil(len(found) / _MOST_TICKS)]


def _multiples(low: float, high: float, factors: Sequence[float], base: int) -> list[float]:
    """The multiples between two numbers of the smallest round step of which there are not too many."""
    power = math.floor(math.log((high - low) / _MOST_TICKS, base))
    steps = (factor * float(base) ** p for p in range(power, power + 3) for factor in factors)
    step = next(step for step in steps if (high - low) / step < _MOST_TICKS)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(text: str) -> str:
    """A quantity without zeros that say nothing: `500 us` for `500.00 us`."""
    return re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", text).replace(". ", " ").rstrip(".")
