"""Which candidate to try next: optuna's samplers, with a journal that survives a killed search."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable
from .objectives import Objective
from .phases import Candidate, Strategy
from .ranges import Choice, Range
from .store import explained


class Study:
    """Asks for candidates, any number before it is told what became of the first. What it knows is in `path`.

    One process at a time may use it. Raises StorageFailed when `path` cannot be written to.
    """

    def __init__(
        self,
        path: Path,
        strategy: Strategy,
        objectives: Sequence[Objective],
        first: Sequence[Candidate],
        seed: int,
    ) -> None:
        optuna = _optuna()
        self._strategy = strategy
        self._complete = optuna.trial.TrialState.COMPLETE
        self._failed = optuna.trial.TrialState.FAIL
        self._path = path
        backend = _journal(optuna, path)
        with _quiet(optuna), explained(path):
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="fxpress",
                directions=["maximize" if objective.maximise else "minimize" for objective in objectives],
                load_if_exists=True,
            )
        known = self._study.get_trials(deepcopy=False)
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            self._study.sampler = optuna.samplers.TPESampler(
                seed=seed + len(known),
                multivariate=True,
                group=True,  # options of phases that are off are not asked for
                constant_liar=True,
                n_startup_trials=max(len(first), 8),
            )
        with _quiet(optuna), explained(path):
            for trial in known:
                if trial.state == optuna.trial.TrialState.RUNNING:  # of a search that was killed
                    self._study.enqueue_trial(trial.system_attrs.get("fixed_params", {}) | trial.params)
                    self._study.tell(trial.number, state=self._failed)
            for candidate in first:
                self._study.enqueue_trial(self._answers(candidate), skip_if_exists=True)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The number of the next trial, counted from 1, and its candidate."""
        with explained(self._path):
            trial = self._study.ask()
            candidate = self._candidate(trial)
        return trial.number + 1, candidate

    def _candidate(self, trial: Any) -> dict[str, Any]:
        """What the trial chooses: which phases are on, and only of those the options that count."""
        found: dict[str, Any] = {}
        for phase in self._strategy.phases:
            if phase.off and not trial.suggest_categorical(phase.name, (False, True)):
                continue
            chosen: dict[str, Any] = {}
            for name, values in phase.space.items():
                if phase.asks(name, chosen):
                    key = f"{phase.name}.{name}"
                    chosen[name] = found[key] = _suggested(trial, key, values)
        return found

    def _answers(self, candidate: Candidate) -> dict[str, Any]:
        """What a trial of the candidate would have chosen."""
        complete, found = self._strategy.canonical(candidate), dict[str, Any]()
        for phase in self._strategy.phases:
            is_on = not phase.is_off(phase.options(complete))
            found |= {phase.name: is_on} if phase.off else {}
            found |= {f"{phase.name}.{name}": value for name, value in phase.told(complete).items()} if is_on else {}
        return found

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """What the trial is worth, in the order of the objectives; None for one that was refused."""
        with explained(self._path):
            if values is None:
                self._study.tell(number - 1, state=self._failed)
            else:
                self._study.tell(number - 1, list(values))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise BackendUnavailable(
            'searching needs optuna, which is not installed; install it with pip install "fxpress[search]"'
        ) from error
    return optuna


def _journal(optuna: Any, path: Path) -> Any:
    """The journal at `path`, without what a search left there that was killed: its lock, half a line."""
    Path(f"{path}{optuna.storages.journal._file.LOCK_FILE_SUFFIX}").unlink(missing_ok=True)
    if path.exists():
        written = path.read_bytes()
        os.truncate(path, written.rfind(b"\n") + 1)
    return optuna.storages.journal.JournalFileBackend(str(path))


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _suggested(trial: Any, key: str, values: Range | Choice) -> Any:
    if isinstance(values, Choice):
        return trial.suggest_categorical(key, values.options)
    if values.is_whole:
        step = 1 if values.step is None else int(values.step)
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log, step=step)
    return trial.suggest_float(key, values.low, values.high, log=values.log, step=values.step)
