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
from .objectives import Cost, Objective
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
        self._costs = [objective for objective in self.objectives if isinstance(objective, Cost)]

    def original(self) -> Point:
        """The model as it is, compiled."""
        point = self._judged(Point(0, {}, []), self.task.original, f"{self._digest[:24]}-original")
        return replace(point, promised=point.footprint)

    def run(self, number: int, candidate: Candidate, others: list[Point]) -> Point:
        """Make, judge and measure a candidate; one that is refused early says why.

        Footprints are promised before any training. One over the limits is not trained, nor one between two points of
        which the dearer, trained one is no better: more of the same would not help.
        """
        begin = time.monotonic()
        candidate = self.strategy.complete(candidate)
        point = Point(number, candidate, [])
        try:
            program, key, steps = run_phases(
                self.strategy, candidate, self.task, self.store, self._digest, structure_only=True
            )
            point = replace(point, steps=steps, promised=self._footprint(program, key))
            reason = self.hopeless(point, others)
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
        curve = [row for record in program.history if record.name == "train" for row in record.decisions]
        return replace(point, artifact=path, quality=quality, footprint=self._footprint(program, key), curve=curve)

    def _artifact(self, program: Program, key: str) -> Path:
        path = self.store.artifact(key)
        if not path.exists():
            artifact = compile(program, target=self.task.target, progress=self.task.progress)
            artifact.save(path)
        return path

    def _footprint(self, program: Program, key: str) -> Footprint:
        def measure() -> Footprint:
            path = self._artifact(program, key)
            self.task.progress("measure")
            return measure_footprints([path], seconds=self.seconds, threads=self.threads)[0]

        return self.store.footprint(key, measure)

    def hopeless(self, point: Point, others: list[Point]) -> str:
        """Why training cannot make it a point of the frontier; empty when it can."""
        assert point.promised is not None
        for cost in self._costs:
            limit, promised = self.limits.get(cost.name), cost.of(point.promised)
            if limit is not None and cost.loss(promised) > cost.loss(limit):
                return f"{cost.name} would be {cost.text(promised)}, over the limit {cost.text(limit)}"
        if not self._trains(point.candidate):
            return ""
        whole = [other for other in others if other.is_whole]
        larger = [o for o in whole if self._trains(o.candidate) and self._costs_no_less(o.footprint, point.promised)]
        smaller = [other for other in whole if self._costs_no_less(point.promised, other.footprint)]
        if not larger or not smaller:
            return ""
        dear, cheap = (max(some, key=lambda o: o.quality.value) for some in (larger, smaller))  # type: ignore[union-attr]
        assert dear.quality is not None
        assert cheap.quality is not None
        if dear.quality.value > cheap.quality.value:
            return ""
        return f"costs more than number {cheap.number}, than which number {dear.number}, which costs more, is no better"

    def _trains(self, candidate: Candidate) -> bool:
        return any(
            phase.keeps_structure and not phase.is_off(phase.options(candidate)) for phase in self.strategy.phases
        )

    def _costs_no_less(self, dear: Footprint | None, cheap: Footprint | None) -> bool:
        """Whether one costs as much as the other or more, in every objective."""
        assert dear is not None
        assert cheap is not None
        return all(cost.loss(cost.of(dear)) >= cost.loss(cost.of(cheap)) for cost in self._costs)


def check_limits(limits: dict[str, float], objectives: tuple[Objective, ...]) -> None:
    """Raise InvalidInput for limits on what is no objective, or that are not positive."""
    names = {objective.name for objective in objectives if isinstance(objective, Cost)}
    for name, limit in limits.items():
        if name not in names:
            raise InvalidInput(f"limits must be on objectives {sorted(names)}, not {name!r}; add it to objectives=")
        if not limit > 0:
            raise InvalidInput(f"limit of {name} must be positive, not {limit!r}")
