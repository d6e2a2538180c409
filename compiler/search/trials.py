"""One trial: from a candidate to a Point."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..api import compile
from ..errors import CompilerError
from ..program import Program
from ..progress import Progress
from ..quantizing import quantize
from ..report.layer_errors import LayerError, layer_errors
from ..report.outcomes import TRAINING
from ..runtime import load
from ..runtime.threads import thread_count
from .any_batch import AnyBatch
from .footprint import Footprint, Meter
from .frontier import Point
from .objectives import Cost, Objective
from .phases import Candidate, Strategy, Task
from .quality import Quality
from .recipes import recipe_of
from .store import Step, StorageFailed, Store, chain_key, explained, run_phases

ITEMS_FOR_ERRORS = 4
"""So many items of the calibration data tell how far layers are off."""


@dataclass(frozen=True)
class Trial:
    """What to try: a candidate, and the points `others` that are known when it begins. Number 0 is the original."""

    number: int
    candidate: Candidate = field(default_factory=dict)
    others: Sequence[Point] = ()

    def refused(self, reason: str) -> Point:
        """The Point of a trial that came to nothing."""
        return Point(self.number, self.candidate, [], refused=reason)

    def __str__(self) -> str:
        return f"trial {self.number}" if self.number else "original"


@dataclass
class Trials:
    """Makes Points of Trials. `limits` are the most that a point may have of an objective."""

    strategy: Strategy
    task: Task
    store: Store
    objectives: tuple[Objective, ...]
    limits: dict[str, float]
    threads: int | None = None
    meter: Callable[[Path], Footprint] = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self._digest = self.task.digest()
        self._costs = [objective for objective in self.objectives if isinstance(objective, Cost)]

    def run(self, trial: Trial, progress: Progress) -> Point:
        """Make, judge and measure what the trial says; a candidate that cannot be made is refused and says why.

        Raises StorageFailed, what `evaluate` raises, and for the original what compiling raises.
        """
        begin = time.monotonic()
        task = replace(self.task, progress=progress)
        point = self._candidate(trial, task) if trial.number else self._original(task)
        return replace(point, seconds=time.monotonic() - begin)

    def _original(self, task: Task) -> Point:
        """The model as it is, compiled; for a target that computes integers only, quantised as suits that."""
        program = as_target_needs(task)
        steps: list[Step] = [] if program is task.original else [("quantize", {})]
        point = self._judged(Point(0, {}, []), program, chain_key(self._digest, steps), task)
        return replace(point, promised=point.footprint)

    def _candidate(self, trial: Trial, task: Task) -> Point:
        """The candidate's Point.

        Footprints are promised before any training. One over the limits is not trained, nor one between two points of
        which the dearer, trained one is no better: more of the same would not help.
        """
        candidate = self.strategy.complete(trial.candidate)
        point = Point(trial.number, candidate, [])
        try:
            program, key, steps = run_phases(
                self.strategy, candidate, task, self.store, self._digest, structure_only=True
            )
            point = replace(point, steps=steps, promised=self._footprint(program, key, task))
            reason = self.hopeless(point, trial.others)
            if reason:
                return replace(point, refused=reason)
            program, key, steps = run_phases(self.strategy, candidate, task, self.store, self._digest)
            return self._judged(replace(point, steps=steps), program, key, task)
        except StorageFailed:  # which is not the candidate's fault
            raise
        except CompilerError as error:  # this candidate cannot be made: the search goes on and shows why
            return replace(point, refused=f"{type(error).__name__}: {error}")

    def _judged(self, point: Point, program: Program, key: str, task: Task) -> Point:
        path = self._artifact(program, key, task)
        task.progress("evaluate")
        with load(path, num_threads=min(thread_count(self.threads), torch.get_num_threads())) as artifact:
            measure = Quality.measure if point.number else Quality.measure_twice
            quality = measure(task.evaluate, AnyBatch(artifact))
        curve = [row for record in program.history if record.name == TRAINING for row in record.decisions]
        footprint, layers = self._footprint(program, key, task), self._layer_errors(program)
        recipe = recipe_of(point, self.strategy, self.task, self.store, path)
        made = replace(point, artifact=path, quality=quality, footprint=footprint, recipe=recipe)
        return replace(made, curve=curve, layers=layers)

    def _layer_errors(self, program: Program) -> tuple[LayerError, ...]:
        """How far the layers are off the original's, on the first of the calibration data or the example inputs."""
        from ..passes.quantization.calibration import Calibration

        original = self.task.original
        data = self.task.calibration or [original.example_inputs]
        return layer_errors(original, program, itertools.islice(Calibration(data, original), ITEMS_FOR_ERRORS))

    def _artifact(self, program: Program, key: str, task: Task) -> Path:
        path = self.store.artifact(key)
        if not path.exists():
            artifact = compile(program, target=task.target, progress=task.progress)
            with explained(path):
                artifact.save(path)
        return path

    def _footprint(self, program: Program, key: str, task: Task) -> Footprint:
        def measure() -> Footprint:
            path = self._artifact(program, key, task)
            task.progress("measure")
            return self.meter(path)

        return self.store.footprint(key, measure)

    def hopeless(self, point: Point, others: Sequence[Point]) -> str:
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
        if dear.quality.is_better_than(cheap.quality):
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


def as_target_needs(task: Task) -> Program:
    """The Task's Program, quantised where its target computes nothing else than integers."""
    from ..passes.quantization.integer_targets import INTEGERS

    integers = INTEGERS.get(task.target.kind)
    if integers is None or not integers.static:
        return task.original
    data = task.calibration or None
    return quantize(task.original, calibration=data, target=task.target, progress=task.progress)


def items_of(calibration: Iterable[Any] | None, program: Program) -> list[Any]:
    """The items of calibration data as they were given, each checked; none for None. Raises InvalidInput."""
    from ..passes.quantization.calibration import Calibration

    if calibration is None:
        return []
    Calibration(calibration, program)  # which refuses what holds no items
    items = list(calibration)
    for _ in Calibration(items, program):
        pass
    return items
