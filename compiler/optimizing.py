"""`fxpress.optimize`: from a model to the best models of every footprint."""

from __future__ import annotations

import contextlib
import logging
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
from .runtime.threads import thread_count
from .target import Target

if TYPE_CHECKING:
    from .learn.config import TrainConfig
    from .search.candidates import Candidates
    from .search.executors.executor import Executor
    from .search.frontier import Frontier, Point
    from .search.phases import Strategy
    from .search.quality import Evaluate
    from .search.store import Store

MOST_SEED = 2**31 - 1
_log = logging.getLogger("fxpress.optimize")


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
    executor: str | Executor = "local",
    workers: int | None = None,
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

    The search ends after `budget_seconds`, not before the trials that run then have, or after `max_trials`. What it
    makes is kept in the folder `storage`: the same search started again goes on where it was, also after it was killed.
    `executor` says where trials run: "local" in this process, one after the other; "processes" in so many `workers` on
    this machine; "ray" on a cluster; or an Executor. Footprints are measured where nothing else of the search computes.

    Raises InvalidInput for data and options that do not fit, StorageFailed, which is one, when `storage` cannot be
    written to, BackendUnavailable, what `evaluate` raises, wherever it runs, and what capturing raises.
    """
    from .search.candidates import Candidates
    from .search.environment import environment
    from .search.executors.executor import executor_of
    from .search.footprint import Meter
    from .search.frontier import Frontier
    from .search.objectives import check_known, check_limits, objectives_of
    from .search.phases import Task
    from .search.quality import Agreement
    from .search.store import Store
    from .search.strategies import strategy_of
    from .search.study import Study
    from .search.trials import Trials, items_of

    where = Target.parse(target)
    wanted = objectives_of(objectives)
    check_known(wanted, where)
    chosen = strategy_of(strategy)
    most = check_limits(limits or {}, wanted)
    crew = executor_of(executor, workers)
    thread_count(num_threads)
    _check(budget_seconds=budget_seconds, max_trials=max_trials, seed=seed, storage=storage, learning=learning)
    _check_functions(evaluate=evaluate, loss=loss, progress=progress)
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(TerminalProgress()) if progress is None else progress
        stage("capture")
        program = as_program(model, inputs, kwargs)
        items = items_of(calibration, program)
        if evaluate is None:
            if not items:
                raise InvalidInput("evaluate= must be given, or calibration=, on which the original's outputs count")
            evaluate = Agreement(program.run, items)
        folder = Path(tempfile.mkdtemp(prefix="fxpress-search-")) if storage is None else Path(storage)
        task = Task(program, where, evaluate, items, train, loss, learning, None, seed, stage, folder / "measured")
        fitted, notes = chosen.fit(task)
        store = Store(folder)
        stack.enter_context(store.locked())
        store.claim({**task.digests, "strategy": fitted.digest(), "objectives": " ".join(o.name for o in wanted)})
        trials = Trials(fitted, task, store, wanted, most, num_threads, Meter(threads=num_threads))
        first = [fitted.complete(candidate) for candidate in fitted.first]
        study = Study(folder / "journal.log", fitted, wanted, first, seed)
        candidates = Candidates(study, fitted, wanted, store.points())
        stack.enter_context(crew.at_work(trials, stage))

        def has_time(tried: int) -> bool:
            return time.monotonic() - begin < budget_seconds and (max_trials is None or tried < max_trials)

        original, points = _search(crew, candidates, store, has_time)
    around = environment() | {
        "target": str(task.target),
        "strategy": fitted.name,
        "executor": executor if isinstance(executor, str) else type(executor).__name__,
        "workers": crew.workers,
        "threads": crew.threads,
        "seed": seed,
        "budget_seconds": float(budget_seconds),
        "spent_seconds": time.monotonic() - begin,
    }
    found = Frontier(original, points, wanted, notes, around)
    missed = found.why_none_within(most)
    if missed:
        _log.warning(missed)
    return replace(found, notes=(*notes, missed)) if missed else found


def _check(*, budget_seconds: Any, max_trials: Any, seed: Any, storage: Any, learning: Any) -> None:
    from .learn.config import TrainConfig

    if not isinstance(budget_seconds, int | float) or not budget_seconds > 0:
        raise InvalidInput(f"budget_seconds must be positive, not {budget_seconds!r}")
    if max_trials is not None and (type(max_trials) is not int or max_trials < 1):
        raise InvalidInput(f"max_trials must be an integer of at least 1 or None, not {max_trials!r}")
    if type(seed) is not int or not 0 <= seed <= MOST_SEED:
        raise InvalidInput(f"seed must be an integer from 0 to {MOST_SEED}, not {seed!r}")
    if storage is not None and not isinstance(storage, str | Path):
        raise InvalidInput(f"storage must be the path of a folder or None, not {storage!r}")
    if learning is not None and not isinstance(learning, TrainConfig):
        raise InvalidInput(f"learning must be a fxpress.learn.TrainConfig or None, not {learning!r}")


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise InvalidInput(f"{name} must be a function or None, not {function!r}")


def _search(
    crew: Executor, candidates: Candidates, store: Store, has_time: Callable[[int], bool]
) -> tuple[Point, list[Point]]:
    """The original's Point and those of all candidates: of earlier, and of now as long as there is time for more."""
    from .search.trials import Trial

    crew.submit(Trial(0))
    original, points, running = crew.finished(), store.points(), 0
    while True:
        while running < crew.workers and has_time(len(points) + running):
            asked = candidates.next()
            if asked is None:
                break
            number, candidate = asked
            crew.submit(Trial(number, candidate, (original, *points)))
            running += 1
        if not running:
            return original, sorted(points, key=lambda point: point.number)
        point = crew.finished()
        running -= 1
        store.add_point(point)
        points.append(point)
        candidates.tell(point)
