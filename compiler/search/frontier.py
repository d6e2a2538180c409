"""What a search found: points, and which of them nothing beats."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInput
from ..runtime import Artifact, load
from ..runtime.container import replaced_file
from .footprint import Footprint
from .objectives import OBJECTIVES, QUALITY, Cost, Objective, check_limit, excess_over
from .peers import Peers, check_peers
from .points import Point as Point
from .quality import Quality

FORMAT = 1


@dataclass(frozen=True)
class Frontier:
    """The result of a search: `tried` are all its points, `original` the model as it was, compiled."""

    original: Point
    tried: Sequence[Point]
    objectives: tuple[Objective, ...]
    notes: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    peers: Peers = field(default_factory=dict)

    def with_peers(self, peers: Peers | None) -> Frontier:
        """The same beside `peers`, which pictures, pages and `save` show and keep. Raises InvalidInput."""
        return self if peers is None else replace(self, peers={**self.peers, **check_peers(peers)})

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The points that no other beats in one objective without losing in another, best quality first."""
        whole = [point for point in (self.original, *self.tried) if point.is_whole]
        costs = np.array([self._costs(point) for point in whole])
        kept = [
            point
            for point, cost in zip(whole, costs, strict=True)
            if not ((costs <= cost).all(1) & (costs < cost).any(1)).any()
        ]
        unique = {tuple(self._costs(point)): point for point in reversed(kept)}
        return tuple(sorted(unique.values(), key=lambda point: -_quality(point).value))

    def equal_to(self, point: Point) -> Point | None:
        """The cheapest point that costs no more in anything, and than which this one is no better outside the noise.

        None when there is none: then what the point costs more is worth it.
        """
        costs = self._costs(point)[1:]
        cheaper = [
            other
            for other in self.points
            if other is not point
            and all(mine >= theirs for mine, theirs in zip(costs, self._costs(other)[1:], strict=True))
            and not _quality(point).is_better_than(_quality(other))
        ]
        return min(cheaper, key=lambda other: self._costs(other)[1:], default=None)

    def best(
        self,
        *,
        max_quality_drop: float | None = None,
        max_latency: float | None = None,
        max_size: float | None = None,
        max_ram: float | None = None,
        certain: bool = False,
    ) -> Point:
        """The best point within the limits: the fastest one if quality is limited, otherwise the one of best quality.

        `max_quality_drop` is in units of quality below the original, `max_latency` in seconds, the others in bytes.
        With `certain` the whole interval of the drop must be within the limit, not only the drop that was measured. Of
        points that are not told apart from the one of best quality, the cheapest is the best. Raises InvalidInput for
        limits that are no numbers or of what is not known here, and when no point is within them, naming the nearest.
        """
        given = {"latency": max_latency, "size": max_size, "ram": max_ram}
        limits = {name: limit for name, limit in given.items() if limit is not None}
        for name, limit in limits.items():
            check_limit(f"max_{name}", limit)
            if math.isnan(excess_over({name: limit}, _footprint(self.original))):
                raise InvalidInput(f"max_{name} must be None where nothing tells the {name} of models, not {limit!r}")
        drop_is_known = isinstance(max_quality_drop, int | float) and math.isfinite(max_quality_drop)
        if max_quality_drop is not None and not drop_is_known:
            raise InvalidInput(f"max_quality_drop must be a number in units of quality, not {max_quality_drop!r}")
        excess = {point.number: self._excess(point, max_quality_drop, limits, certain) for point in self.points}
        fitting = [point for point in self.points if excess[point.number] <= 0]
        if not fitting:
            nearest = min(self.points, key=lambda point: excess[point.number])
            raise InvalidInput(
                f"limits must be such that a point is within them; the nearest is number {nearest.number} "
                f"({nearest.describe()}): {self.text_of(nearest)}"
            )
        if max_quality_drop is None:
            highest = _quality(max(fitting, key=lambda point: _quality(point).value))
            fitting = [point for point in fitting if not highest.is_better_than(_quality(point))]
        return min(fitting, key=lambda point: self._costs(point)[1:])

    def why_none_within(self, limits: Mapping[str, float]) -> str:
        """That no model is within the limits of costs by objective, and which is nearest; empty when one is."""
        costs = [o for o in self.objectives if isinstance(o, Cost) and o.name in limits]
        known = [(p, p.footprint or p.promised) for p in (self.original, *self.tried)]
        near = [
            (excess_over(limits, footprint), p.number, p, footprint) for p, footprint in known if footprint is not None
        ]
        most, _, nearest, footprint = min(near)
        if most <= 0:
            return ""
        found = ", ".join(f"{cost.name} {cost.text(cost.of(footprint))}" for cost in costs)
        wanted = ", ".join(f"{cost.name} {cost.text(limits[cost.name])}" for cost in costs)
        which = f"number {nearest.number} ({nearest.describe()})"
        return f"no model is within the limits {wanted}; the nearest is {which} with {found}"

    def hypervolume(self, reference: Mapping[str, float] | None = None) -> float:
        """How much of the space of objectives the points dominate, up to the `reference` of worst values by objective.

        By default those are what the original has, and a quality of 0. Objectives are scaled so that it is at most 1:
        the share of the box between the reference and the best there can be, which is no cost, a quality of 1, and of
        what has no end the best of all points.
        """
        worst = {o.name: self.original.value(o) if isinstance(o, Cost) else 0.0 for o in self.objectives}
        worst |= reference or {}
        best = {o.name: max(p.value(o) for p in self.points) if o.maximise else 0.0 for o in self.objectives}
        best[QUALITY.name] = max(1.0, best[QUALITY.name])
        corners = []
        for point in self.points:
            gains = [point.value(o) - worst[o.name] for o in self.objectives]
            whole = [best[o.name] - worst[o.name] for o in self.objectives]
            if all(gain * most > 0 for gain, most in zip(gains, whole, strict=True)):
                corners.append(tuple(gain / most for gain, most in zip(gains, whole, strict=True)))
        return volume(corners)

    def load(self, point: Point, num_threads: int | None = None) -> Artifact:
        """A point's artifact. Raises InvalidInput for a point that was refused before it had one."""
        if point.artifact is None:
            raise InvalidInput(f"point must have an artifact, but number {point.number} was refused: {point.refused}")
        return load(point.artifact, num_threads=num_threads)

    def save(self, folder: str | Path) -> None:
        """Write the points' artifacts and what is known of them to a folder, which `Frontier.load_from` reads.

        Each file is written whole or not at all, what names the others last: a frontier that was there stays until
        this one is. Raises InvalidInput when the folder cannot be written to, or has no room.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"folder must be one that can be written, not {str(folder)!r}: {error}") from error
        for point in (self.original, *self.points):
            if point.artifact is not None and point.artifact.parent.resolve() != folder.resolve():
                _copy(point.artifact, folder)
        kept = {point.number for point in self.points}
        tried = [p if p.number in kept else replace(p, artifact=None) for p in self.tried]
        data = {
            "format": FORMAT,
            "original": self.original.to_json(),
            "tried": [point.to_json() for point in tried],
            "objectives": [objective.name for objective in self.objectives],
            "notes": list(self.notes),
            "environment": dict(self.environment),
            "peers": {name: dict(peer) for name, peer in self.peers.items()},
        }
        with replaced_file(folder / "frontier.json") as file:
            file.write(json.dumps(data, indent=1).encode())

    @classmethod
    def load_from(cls, folder: str | Path) -> Frontier:
        """The Frontier that `save` wrote. Raises InvalidInput when there is none."""
        folder = Path(folder)
        try:
            data = json.loads((folder / "frontier.json").read_text())
        except (OSError, ValueError) as error:
            raise InvalidInput(f"folder must hold a saved Frontier, not {str(folder)!r}: {error}") from error
        found = data.get("format") if isinstance(data, dict) else data
        if found != FORMAT:
            raise InvalidInput(f"frontier.json must be of format {FORMAT}, not {found!r:.100}")
        try:
            return cls(
                Point.from_json(data["original"], folder),
                [Point.from_json(point, folder) for point in data["tried"]],
                tuple(OBJECTIVES[name] for name in data["objectives"]),
                data["notes"],
                data["environment"],
                data["peers"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"frontier.json must be as Frontier.save wrote it, not without {error}") from error

    def promises(self, within: float = 0.1) -> tuple[int, int]:
        """How many points have a latency as promised before their training, and how many were measured after one.

        `within` is how far off it may be, relative to what was measured.
        """
        off = [
            abs(point.promised.latency / point.footprint.latency - 1)
            for point in self.tried
            if point.promised is not None and point.footprint is not None and point.promised != point.footprint
        ]
        return sum(distance <= within for distance in off), len(off)

    def promises_text(self) -> str:
        """What `promises` counts, in words; empty where nothing was measured after a training."""
        kept, count = self.promises()
        return f"promised latency within 10% of the measured one: {kept} of {count} trained points" if count else ""

    def report(
        self, path: str | Path, title: str = "Models by quality and cost", *, peers: Peers | None = None
    ) -> None:
        """Write the page that shows everything: plots, what was done to each point, its layers, what was refused.

        `peers` are models of others to be shown beside: objectives by name. Raises InvalidInput for wrong ones.
        """
        from ..report.frontier_page import render_frontier

        page = render_frontier(self.with_peers(peers), title)
        with replaced_file(Path(path)) as file:
            file.write(page.encode())

    def plot(self, path: str | Path, *, peers: Peers | None = None) -> None:
        """Write a picture of quality against each cost: PNG, SVG or PDF, as the name ends. `peers` are as for `report`.

        Raises BackendUnavailable without matplotlib, InvalidInput for another ending.
        """
        from ..report.frontier_picture import plot_frontier

        plot_frontier(self.with_peers(peers), Path(path))

    def text(self) -> str:
        """The points as a table, the original first."""
        lines = [f"original: {self.text_of(self.original)}"]
        lines += [f"{p.number:>4}: {self.text_of(p)}  {p.describe()}" for p in self.points if p is not self.original]
        for point in self.points:
            equal = self.equal_to(point)
            if equal is not None:
                lines.append(f"{point.number:>4} is no better than {equal.number}, which costs less, outside the noise")
        if self.promises_text():
            lines.append(self.promises_text())
        return "\n".join(lines)

    def text_of(self, point: Point) -> str:
        """A point's numbers."""
        return ", ".join(f"{o.name} {o.text(point.value(o))}" for o in self.objectives)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def _costs(self, point: Point) -> tuple[float, ...]:
        return tuple(o.loss(point.value(o)) for o in self.objectives)

    def _excess(self, point: Point, drop: float | None, limits: Mapping[str, float], certain: bool) -> float:
        """By how much a point breaks the limits, relative to them; at most 0 within."""
        excess = excess_over(limits, _footprint(point))
        if drop is None:
            return excess
        value, _, most = _quality(self.original).minus(_quality(point))
        return max(excess, (most if certain else value) - drop)


def _footprint(point: Point) -> Footprint:
    assert point.footprint is not None
    return point.footprint


def _quality(point: Point) -> Quality:
    assert point.quality is not None
    return point.quality


def _copy(artifact: Path, folder: Path) -> None:
    """Put an artifact's file into a folder, whole or not at all."""
    if not artifact.is_file():
        raise InvalidInput(f"artifact must be a file that exists, not {str(artifact)!r}; was its storage deleted?")
    with open(artifact, "rb") as made, replaced_file(folder / artifact.name) as file:
        shutil.copyfileobj(made, file)


def volume(corners: Sequence[tuple[float, ...]]) -> float:
    """The volume of the union of boxes from the origin to each corner, by slicing along the last axis."""
    if not corners:
        return 0.0
    if len(corners[0]) == 1:
        return max(corner[0] for corner in corners)
    total, below = 0.0, 0.0
    for height in sorted({corner[-1] for corner in corners}):
        reaching = [corner[:-1] for corner in corners if corner[-1] >= height]
        total += (height - below) * volume(reaching)
        below = height
    return total
