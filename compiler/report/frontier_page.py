"""A Frontier as one HTML page that needs nothing else, and as a picture for papers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..errors import BackendUnavailable
from ..search.objectives import QUALITY, Objective
from .quantities import time_text

if TYPE_CHECKING:
    from ..search.frontier import Frontier, Point

WIDTH, HEIGHT = 560, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 10, 10, 40  # margins of a plot
_CURVE_WIDTH, _CURVE_HEIGHT = 520, 150


@dataclass(frozen=True)
class _Tick:
    at: float
    text: str


@dataclass(frozen=True)
class _Mark:
    """A point of a plot; `low` and `high` are the ends of its whisker."""

    number: int
    x: float
    y: float
    low: float | None
    high: float | None
    kind: str
    title: str


@dataclass(frozen=True)
class _Plot:
    x_name: str
    y_name: str
    x_ticks: list[_Tick]
    y_ticks: list[_Tick]
    marks: list[_Mark]
    front: str
    width: int = WIDTH
    height: int = HEIGHT


def render_frontier(frontier: Frontier, title: str, *, layers: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """The page's HTML; `layers` are the profiles of points by number."""
    environment = Environment(
        loader=PackageLoader("fxpress.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(time=time_text)
    on = {point.number for point in frontier.points}
    everything = [frontier.original, *frontier.tried]
    best = frontier.points[0]
    return environment.get_template("frontier.html").render(
        title=title,
        frontier=frontier,
        cards=_cards(frontier),
        plots=[_plot(frontier, y, x) for y, x in itertools.combinations(frontier.objectives, 2)],
        views=[_view(frontier, point, layers.get(point.number, ())) for point in everything],
        rows=[_row(frontier, point, point.number in on) for point in everything if point.is_whole],
        refused=[point for point in frontier.tried if point.refused],
        chosen=best.number,
    )


def _cards(frontier: Frontier) -> list[dict[str, str]]:
    original = frontier.original
    cards = [{"number": o.text(original.value(o)), "text": f"{o.name} of the original"} for o in frontier.objectives]
    for objective in frontier.objectives[1:]:
        best = min(frontier.points, key=lambda point: objective.loss(point.value(objective)))
        ratio, text = original.value(objective) / best.value(objective), f"{objective.name} of number {best.number}"
        cards.append({"number": f"{1 / ratio:.3g}x", "text": f"{text}, to the original's"})
    return cards


def _view(frontier: Frontier, point: Point, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    numbers = frontier.text_of(point) if point.is_whole else ""
    if point.is_whole and point.quality is not None and point.quality.low < point.quality.high:
        numbers += f" (quality from {point.quality.low:.4g} to {point.quality.high:.4g})"
    promised = ""
    if point.promised is not None and point.footprint is not None and point.number:
        promised = (
            f"promised {time_text(point.promised.latency)} before any training, measured "
            f"{time_text(point.footprint.latency)} ({point.footprint.latency / point.promised.latency - 1:+.1%})"
        )
    losses = [float(row["loss"]) for row in point.curve if "loss" in row]
    steps = [(name, ", ".join(f"{key}={value}" for key, value in options.items())) for name, options in point.steps]
    return {
        "number": point.number,
        "numbers": numbers,
        "refused": point.refused,
        "steps": steps,
        "promised": promised,
        "curve": _curve(losses),
        "curve_range": f"{max(losses):.3g} to {min(losses):.3g}" if losses else "",
        "layers": layers,
    }


def _curve(losses: Sequence[float]) -> str:
    if len(losses) < 2:
        return ""
    low, high = min(losses), max(losses)
    across, up = _CURVE_WIDTH - 8, _CURVE_HEIGHT - 24
    return " ".join(
        f"{4 + across * i / (len(losses) - 1):.1f},{20 + up * (1 - (loss - low) / ((high - low) or 1)):.1f}"
        for i, loss in enumerate(losses)
    )


def _row(frontier: Frontier, point: Point, on: bool) -> dict[str, Any]:
    values = [(point.value(o), o.text(point.value(o))) for o in frontier.objectives]
    return {"number": point.number, "text": point.describe(), "numbers": values, "seconds": point.seconds, "on": on}


def _plot(frontier: Frontier, y: Objective, x: Objective) -> _Plot:
    whole = [point for point in (frontier.original, *frontier.tried) if point.is_whole]
    on = {point.number for point in frontier.points}
    across = _Axis([point.value(x) for point in whole], LEFT, WIDTH - RIGHT, x)
    ends = [end for point in whole for end in _ends(point, y)]
    up = _Axis([point.value(y) for point in whole] + ends, HEIGHT - BOTTOM, TOP, y)
    marks = []
    for point in sorted(whole, key=lambda point: (point.number in on, point.number == 0)):
        kind = "original" if point.number == 0 else "on" if point.number in on else "beaten"
        low, high = [round(up.place(end), 1) for end in _ends(point, y)] or (None, None)
        title = f"number {point.number}: {frontier.text_of(point)}\n{point.describe()}"
        marks.append(
            _Mark(
                point.number,
                round(across.place(point.value(x)), 1),
                round(up.place(point.value(y)), 1),
                low,
                high,
                kind,
                title,
            )
        )
    return _Plot(x.name, y.name, across.ticks(), up.ticks(), marks, _staircase(whole, across, up, x, y))


def _ends(point: Point, objective: Objective) -> tuple[float, ...]:
    """The ends of the interval of its quality; nothing where there is none."""
    if objective is not QUALITY or point.quality is None or point.quality.low == point.quality.high:
        return ()
    return point.quality.low, point.quality.high


def _staircase(whole: Sequence[Point], across: _Axis, up: _Axis, x: Objective, y: Objective) -> str:
    """The line between what two objectives allow and what they do not."""
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


class _Axis:
    """Numbers to places between two ends; logarithmic where they span more than a decade."""

    def __init__(self, values: Sequence[float], begin: float, end: float, objective: Objective) -> None:
        low, high = min(values), max(values)
        self._is_log = low > 0 and high / low > 10
        self._begin, self._end, self._objective = begin, end, objective
        low, high = self._scaled(low), self._scaled(high)
        margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        self._low, self._high = low - margin, high + margin

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._is_log else value

    def place(self, value: float) -> float:
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return self._begin + (self._end - self._begin) * share

    def ticks(self, count: int = 5) -> list[_Tick]:
        found = []
        for i in range(count):
            at = self._low + (self._high - self._low) * (i + 0.5) / count
            value = 10**at if self._is_log else at
            found.append(_Tick(round(self.place(value), 1), self._objective.text(value)))
        return found


def plot_frontier(frontier: Frontier, path: Path) -> None:
    """Write a PNG of quality against each cost. Raises BackendUnavailable without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise BackendUnavailable(
            'pictures need matplotlib, which is not installed; install it with pip install "fxpress[search]"'
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    costs = frontier.objectives[1:]
    figure, axes = pyplot.subplots(1, len(costs), figsize=(5 * len(costs), 4), squeeze=False, layout="constrained")
    whole = [point for point in frontier.tried if point.is_whole]
    for axis, objective in zip(axes[0], costs, strict=True):
        for points, style in (
            (whole, {"color": "0.7", "label": "tried"}),
            (frontier.points, {"color": "C0", "label": "frontier"}),
            ([frontier.original], {"color": "C3", "label": "original"}),
        ):
            qualities = [point.quality.value for point in points]  # type: ignore[union-attr]
            axis.scatter([point.value(objective) for point in points], qualities, **style)
        axis.set_xscale("log")
        axis.set_xlabel(objective.name)
        axis.set_ylabel("quality")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
