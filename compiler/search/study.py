"""Which candidate to try next: optuna's samplers, with a journal that survives a killed search."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable
from .objectives import Objective
from .phases import Candidate
from .ranges import Choice, Range
from .store import explained


class Study:
    """Asks for candidates, any number before it is told what became of the first. What it knows is in `path`.

    One process at a time may use it. Raises StorageFailed when `path` cannot be written to.
    """

    def __init__(
        self,
        path: Path,
        space: Mapping[str, Range | Choice],
        objectives: Sequence[Objective],
        first: Sequence[Candidate],
        seed: int,
    ) -> None:
        optuna = _optuna()
        self._space = {name: _distribution(values) for name, values in space.items()}
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
        self._study.sampler = optuna.samplers.TPESampler(
            seed=seed + len(known), multivariate=True, constant_liar=True, n_startup_trials=max(len(first), 8)
        )
        with explained(path):
            for trial in known:
                if trial.state == optuna.trial.TrialState.RUNNING:  # of a search that was killed
                    self._study.enqueue_trial(trial.params)
                    self._study.tell(trial.number, state=self._failed)
            for candidate in first:
                self._study.enqueue_trial(dict(candidate), skip_if_exists=True)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The number of the next trial, counted from 1, and its candidate."""
        with explained(self._path):
            trial = self._study.ask(self._space)
        return trial.number + 1, dict(trial.params)

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


def _distribution(values: Range | Choice) -> Any:
    distributions = _optuna().distributions
    if isinstance(values, Choice):
        return distributions.CategoricalDistribution(values.options)
    if values.is_whole:
        step = 1 if values.step is None else int(values.step)
        return distributions.IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
    return distributions.FloatDistribution(values.low, values.high, log=values.log, step=values.step)
