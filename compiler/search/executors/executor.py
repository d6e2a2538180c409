"""What runs the trials of a search, and the names of those that come with fxpress."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

from ...errors import InvalidInput
from ...progress import Progress
from ..frontier import Point
from ..trials import Trial, Trials

EXECUTORS = ("local", "processes", "ray")


class Executor(ABC):
    """Runs trials, up to `workers` at a time, and measures footprints where nothing else of the search computes.

    A search calls `begin`, then `submit` and `finished` in turns, and `end` however it ends; then it may begin anew.
    """

    workers: int = 1
    threads: int
    """PyTorch's, in each of them."""

    @abstractmethod
    def begin(self, trials: Trials, progress: Progress) -> None:
        """Get ready to run `trials`; `progress` is told what each of them is doing. Raises InvalidInput."""

    @abstractmethod
    def submit(self, trial: Trial) -> None:
        """Take on a trial. At most `workers` of them may be unfinished."""

    @abstractmethod
    def finished(self) -> Point:
        """The Point of the next trial that finishes, waited for. Raises what `Trials.run` raises."""

    @abstractmethod
    def end(self) -> None:
        """Stop, with all that still runs."""

    @contextlib.contextmanager
    def at_work(self, trials: Trials, progress: Progress) -> Iterator[None]:
        """Inside, it runs `trials`."""
        try:
            self.begin(trials, progress)
            yield
        finally:
            self.end()


def executor_of(executor: str | Executor, workers: int | None) -> Executor:
    """The Executor that a name means, with so many workers. Raises InvalidInput, BackendUnavailable."""
    if workers is not None and (type(workers) is not int or workers < 1):
        raise InvalidInput(f"workers must be an integer of at least 1 or None, not {workers!r}")
    if isinstance(executor, Executor):
        if workers is not None:
            raise InvalidInput(f"workers must be None with an Executor, which has its own, not {workers!r}")
        return executor
    match executor:
        case "local":
            from .local import LocalExecutor

            if workers not in (None, 1):
                raise InvalidInput(
                    f'workers must be 1 or None with executor="local", not {workers!r}; use executor="processes"'
                )
            return LocalExecutor()
        case "processes":
            from .processes import ProcessExecutor

            return ProcessExecutor(workers)
        case "ray":
            from .ray import RayExecutor

            return RayExecutor(workers)
    raise InvalidInput(f"executor must be an Executor or one of {list(EXECUTORS)}, not {executor!r}")
