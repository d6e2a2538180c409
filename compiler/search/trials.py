"""One trial: from a candidate to a Point."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from ..api import compile
from ..errors import CompilerError, InvalidInput
from ..program import Program
from ..runtime import load
from .any_batch import AnyBatch
from .footprint import Footprint, measure_footprints
from .frontier import Point
from .objectives import Objective
from .phases import Candidate, Strategy, Task
from .quality import Quality
from .store import Store, run_phases


@dataclass
class Trials:
    """Makes Points. `limits` are the most that a point may have of an objective."""

    strategy: Strategy
    task: Task
    store: Store
    objectives: tuple[Objective, ...]
    limits: dict[str, float]
    threads: int | None = None
    seconds: float = 0.5

    def __post_init__(self) -> None:
        self._digest = self.task.digest()

    def original(self) -> Point:
        """The model as it is, compiled."""
        point = self._judged(Point(0, {}, []), self.task.original, f"{self._digest[:24]}-original")
        return replace(point, promised=point.footprint)

    def run(self, number: int, candidate: Candidate, others: list[Point]) -> Point:
        """Make, judge and measure a candidate; one that is refused early says why.

        Footprints are promised before any training: one over the limits, or no better in anything than a point that
        nothing beats in quality, is not trained.
        """
        begin = time.monotonic()
        candidate = self.strategy.complete(candidate)
        point = Point(number, candidate, [])
        try:
            program, key, steps = run_phases(
                self.strategy, candidate, self.task, self.store, self._digest, structure_only=True
            )
            point = replace(point, steps=steps, promised=self._footprint(program, key))
            reason = self._hopeless(point, others)
            if reason:
                return replace(point, refused=reason, seconds=time.monotonic() - begin)
            program, key, steps = run_phases(self.strategy, candidate, self.task, self.store, self._digest)
            point = self._judged(replace(point, steps=steps), program, key)
        except CompilerError as error:  # this candidate cannot be made: the search goes on and shows why
            point = replace(point, refused=f"{type(error).__name__}: {error}")
        return replace(point, seconds=time.monotonic() - begin)

    def _judged(self, point: Point, program: Program, key: str) -> Point:
        path = self._artifact(program, key)
        self.task.progress("evaluate")
        with load(path, num_threads=self.threads) as artifact:
            quality = Quality.measure(self.task.evaluate, AnyBatch(artifact))
        return replace(point, artifact=path, quality=quality, footprint=self._footprint(program, key))

    def _artifact(self, program: Program, key: str) -> Path:
        path = self.store.artifact(key)
        if not path.exists():
            artifact = compile(program, target=self.task.target, progress=self.task.progress)
            artifact.save(path)
        return path

    def _footprint(self, program: Program, key: str) -> Footprint:
        known = self.store.footprint(key)
        if known is not None:
            return known
        path = self._artifact(program, key)
        self.task.progress("measure")
        (found,) = measure_footprints([path], seconds=self.seconds, threads=self.threads)
        self.store.write_json(f"artifacts/{key}.json", found.to_json())
        return found

    def _hopeless(self, point: Point, others: list[Point]) -> str:
        """Why training cannot make it a point of the frontier; empty when it can."""
        assert point.promised is not None
        costs = [o for o in self.objectives if o.name != "quality"]
        for objective in costs:
            limit, promised = self.limits.get(objective.name), objective.of(point.promised)
            if limit is not None and (promised < limit if objective.maximise else promised > limit):
                return f"{objective.name} would be {objective.text(promised)}, over the limit {objective.text(limit)}"
        judged = [other for other in others if other.is_whole]
        if not judged or not any(phase.keeps_structure for phase in self.strategy.phases):
            return ""
        best = max(judged, key=lambda other: other.quality.value)  # type: ignore[union-attr]
        assert best.footprint is not None
        if all(_no_worse(o, o.of(best.footprint), o.of(point.promised)) for o in costs):
            return f"would cost as much as number {best.number}, which has the best quality so far, in everything"
        return ""


def _no_worse(objective: Objective, value: float, other: float) -> bool:
    return value >= other if objective.maximise else value <= other


def check_limits(limits: dict[str, float], objectives: tuple[Objective, ...]) -> None:
    """Raise InvalidInput for limits on what is no objective, or that are not positive."""
    names = {objective.name for objective in objectives if objective.name != "quality"}
    for name, limit in limits.items():
        if name not in names:
            raise InvalidInput(f"limits must be on objectives {sorted(names)}, not {name!r}; add it to objectives=")
        if not limit > 0:
            raise InvalidInput(f"limit of {name} must be positive, not {limit!r}")
