"""`fxpress.optimize`: from a model to the best models of every footprint."""

from __future__ import annotations

import contextlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .api import as_program
from .errors import InvalidInput
from .program import Program
from .progress import Progress, TerminalProgress
from .target import Target

if TYPE_CHECKING:
    from .learn.config import TrainConfig
    from .search.frontier import Frontier
    from .search.phases import Strategy
    from .search.quality import Evaluate

MOST_DUPLICATES = 20
"""So many candidates in a row that were tried already end a search: there is little left to try."""


def optimize(
    model: torch.nn.Module | Callable[..., Any] | torch.export.ExportedProgram | Program,
    inputs: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Target = "cpu",
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    train: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    learning: TrainConfig | None = None,
    strategy: str | Strategy = "shrink-and-improve",
    objectives: Sequence[str] = ("quality", "latency", "size"),
    limits: Mapping[str, float] | None = None,
    budget_seconds: float = 600,
    max_trials: int | None = None,
    storage: str | Path | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> Frontier:
    """Search for the models that nothing beats: the best quality for each footprint.

    `model`, `inputs` and `kwargs` are as for `fxpress.compile`. `calibration` are inputs as for `fxpress.quantize`.
    `evaluate(f)` takes a callable that is called like the model, with batches of any size, and returns its quality:
    a number, higher is better, or `Scores`; `fxpress.search.quality` has the usual ones. Without it quality is how well
    the outputs agree with the original's on the calibration data. `train` yields batches of (inputs, target), or is a
    function that trains a module; `loss(outputs, target)` is what it minimises, and `learning` what training starts
    from: augmentation, smoothing and the like. `strategy` names a list of phases or is one. `limits` are the most that
    points may have of an objective: seconds, bytes.

    The search ends after `budget_seconds`, not before the trial that runs then has, or after `max_trials`. What it
    makes is kept in the folder `storage`: the same search started again goes on where it was, also after it was killed.

    Raises InvalidInput for data and options that do not fit, what `evaluate` raises, and what capturing raises.
    """
    from .search.frontier import Frontier
    from .search.objectives import objectives_of
    from .search.phases import Task
    from .search.quality import Agreement
    from .search.store import Store
    from .search.strategies import strategy_of
    from .search.study import Study
    from .search.trials import Trials, check_limits

    wanted = objectives_of(objectives)
    chosen = strategy_of(strategy)
    most = dict(limits or {})
    check_limits(most, wanted)
    if not budget_seconds > 0:
        raise InvalidInput(f"budget_seconds must be positive, not {budget_seconds!r}")
    begin = time.monotonic()
    items = [] if calibration is None else list(calibration)
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(TerminalProgress()) if progress is None else progress
        stage("capture")
        program = as_program(model, inputs, kwargs)
        if evaluate is None:
            if not items:
                raise InvalidInput("evaluate= must be given, or calibration=, on which the original's outputs count")
            evaluate = Agreement(program.run, items)
        folder = Path(tempfile.mkdtemp(prefix="fxpress-search-")) if storage is None else Path(storage)
        task = Task(program, Target.parse(target), evaluate, items, train, loss, learning, None, seed, stage)
        fitted, notes = chosen.fit(task)
        store = Store(folder)
        stack.enter_context(store.locked())
        trials = Trials(fitted, task, store, wanted, most, num_threads)
        original = trials.original()
        first = [fitted.complete(candidate) for candidate in fitted.first]
        study = Study(folder / "journal.log", fitted.space, wanted, first, seed)
        points = store.points()
        seen = {tuple(sorted(point.candidate.items())): point for point in points}
        duplicates = 0
        while time.monotonic() - begin < budget_seconds and (max_trials is None or len(points) < max_trials):
            number, asked = study.ask()
            candidate = _canonical(fitted, asked)
            point = seen.get(tuple(sorted(candidate.items())))
            if point is None:
                stage(f"trial {number}")
                trials.task = replace(task, progress=_within(stage, f"trial {number}"))
                point = trials.run(number, candidate, [original, *points])
                store.add_point(point)
                points.append(point)
                seen[tuple(sorted(candidate.items()))] = point
                duplicates = 0
            else:
                duplicates += 1
            study.tell(number, [point.value(o) for o in wanted] if point.is_whole else None)
            if duplicates >= MOST_DUPLICATES:
                break
    environment = {"machine": platform.machine(), "target": str(task.target), "torch": torch.__version__, "seed": seed}
    return Frontier(original, points, wanted, notes, environment)


def _canonical(strategy: Strategy, candidate: Mapping[str, Any]) -> dict[str, Any]:
    """The candidate with the other options of phases that are off as they are by default: they change nothing."""
    complete = strategy.complete(candidate)
    for phase in strategy.phases:
        if phase.is_off(phase.options(complete)):
            for name in phase.space:
                complete.pop(f"{phase.name}.{name}")
    return strategy.complete(complete)


def _within(stage: Progress, trial: str) -> Progress:
    return lambda name: stage(f"{trial}: {name}")
