"""A Frontier as one HTML page that needs nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..runtime import load
from ..search.objectives import Objective
from .explanation import Layer, layers_of
from .frontier_plots import BOTTOM, CURVE_HEIGHT, CURVE_WIDTH, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curves_of, plot_of
from .layer_changes import LayerChange, layer_changes
from .outcomes import Outcomes, outcomes_of
from .quantities import bytes_text, option_text, percent_text, time_text

if TYPE_CHECKING:
    from ..search.frontier import Frontier, Point

ALLOWED_LOSS = 0.01
"""What a model may lose of the original's quality to be told of at the top."""
NOTHING = Outcomes(())


@dataclass(frozen=True)
class Inside:
    """What a point's artifact tells: its kernel calls, timed one by one, and what passes did."""

    calls: tuple[Layer, ...] = ()
    done: Outcomes = NOTHING


def look_inside(point: Point) -> Inside:
    """Time the kernel calls of a point's artifact and read what passes did; nothing where it has none."""
    if point.artifact is None:
        return Inside()
    with load(point.artifact) as artifact:
        return Inside(layers_of(artifact.profile()), Outcomes(outcomes_of(artifact)))


def render_frontier(frontier: Frontier, title: str) -> str:
    """The page's HTML. Artifacts of the original and of the points that nothing beats are timed for it."""
    environment = Environment(
        loader=PackageLoader("fxpress.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=bytes_text, percent=percent_text, time=time_text, option=option_text)
    on = {point.number for point in frontier.points}
    everything = [frontier.original, *(point for point in frontier.tried if point.number)]
    whole = [point for point in everything if point.is_whole]
    before = look_inside(frontier.original)
    inside = {point.number: look_inside(point) for point in frontier.points if point.number} | {0: before}
    views = [_view(frontier, point, inside.get(point.number, Inside()), before, on) for point in everything]
    return environment.get_template("frontier.html").render(
        title=title,
        frontier=frontier,
        cards=_cards(frontier),
        plots=[plot_of(frontier, y, x) for y, x in itertools.combinations(frontier.objectives, 2)],
        limits=[_limit(frontier, objective, whole) for objective in frontier.objectives],
        views=views,
        refused=[point for point in frontier.tried if point.refused],
        environment=_environment(frontier),
        chosen=_first_chosen(frontier).number,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        curve_width=CURVE_WIDTH,
        curve_height=CURVE_HEIGHT,
    )


def _first_chosen(frontier: Frontier) -> Point:
    """What the page shows before anything is clicked: the best changed model, where there is one."""
    return next((point for point in frontier.points if point.number), frontier.points[0])


def _cards(frontier: Frontier) -> list[dict[str, str]]:
    original = frontier.original
    cards = [{"number": o.text(original.value(o)), "text": f"{o.name} of the original"} for o in frontier.objectives]
    quality = frontier.objectives[0]
    least = original.value(quality) - ALLOWED_LOSS * abs(original.value(quality))
    good = [point for point in (original, *frontier.points) if point.value(quality) >= least]
    for objective in frontier.objectives[1:]:
        best = min(good, key=lambda point: objective.loss(point.value(objective)))
        if best.number:
            ratio = best.value(objective) / original.value(objective)
            text = f"{objective.name} of number {best.number}, within {ALLOWED_LOSS:.0%} of the original's quality"
            cards.append({"number": f"{ratio:.3g}x", "text": text})
    kept, count = frontier.promises()
    if count:
        cards.append({"number": f"{kept} of {count}", "text": "latencies promised before training within 10%"})
    return cards


def _view(frontier: Frontier, point: Point, inside: Inside, before: Inside, on: set[int]) -> dict[str, Any]:
    """Everything that is shown of a point."""
    changes = layer_changes(point.layers, inside.done, inside.calls, before.calls)
    return {
        "point": point,
        "on": point.number in on,
        "numbers": [_number(frontier, point, objective) for objective in frontier.objectives] if point.is_whole else [],
        "promise": _promise(point),
        "curves": curves_of(point.curve),
        "changes": changes,
        "columns": {name for name in LayerChange.__dataclass_fields__ if any(_is_told(row, name) for row in changes)},
        "slowest": max((row.seconds or 0 for row in changes), default=0),
        "calls": inside.calls,
        "done": inside.done,
    }


def _is_told(row: LayerChange, column: str) -> bool:
    return getattr(row, column) not in (None, "", ())


def _number(frontier: Frontier, point: Point, objective: Objective) -> dict[str, Any]:
    """One of a point's numbers, beside the original's and with its interval."""
    value, original = point.value(objective), frontier.original.value(objective)
    quality = point.quality
    note = ""
    if objective is frontier.objectives[0]:
        if quality is not None and quality.low < quality.high:
            note = f"from {quality.low:.4g} to {quality.high:.4g}"
        equal = frontier.equal_to(point)
        if equal is not None:
            note += f"{', ' if note else ''}no better than number {equal.number}, which costs less, outside the noise"
    elif point.number and original:
        note = f"{value / original:.3g}x the original's"
    texts = {"name": objective.name, "text": objective.text(value), "note": note}
    return {**texts, "value": value, "loss": objective.loss(value)}


def _promise(point: Point) -> str:
    if point.promised is None or point.footprint is None or point.promised == point.footprint:
        return ""
    promised, measured = point.promised.latency, point.footprint.latency
    return (
        f"Promised {time_text(promised)} before any training, measured {time_text(measured)} "
        f"({measured / promised - 1:+.1%})."
    )


def _limit(frontier: Frontier, objective: Objective, whole: Sequence[Point]) -> dict[str, Any]:
    """The values that a slider has, the strictest first."""
    values = sorted({point.value(objective) for point in whole}, key=objective.loss)
    return {
        "name": objective.name,
        "word": "at least" if objective.maximise else "at most",
        "losses": [objective.loss(value) for value in values],
        "texts": [objective.text(value) for value in values],
    }


def _environment(frontier: Frontier) -> list[tuple[str, str]]:
    """What the search ran on and with, as texts."""
    found = []
    for name, value in frontier.environment.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, float) and name.endswith("seconds"):
            text = time_text(value)
        else:
            text = str(value)
        found.append((name.replace("_", " "), text))
    return found
