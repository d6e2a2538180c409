"""Values on their way between processes of one search: pickled, which nothing is that is kept."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import sys
import tempfile
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import BackendUnavailable, InvalidInput
from ...program import Program
from ..trials import Trials

try:
    import cloudpickle
except ImportError as error:
    raise BackendUnavailable(
        'workers need cloudpickle, which is not installed; install it with pip install "fxpress[search]"'
    ) from error


class _Pickler(cloudpickle.Pickler):
    """Functions and classes that workers cannot import travel as they are, Programs as the files that they save."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Program):
            return _program_from, (_bytes_of(value),)
        if isinstance(value, types.FunctionType | type):
            module = sys.modules.get(value.__module__)
            if module is not None and not _is_importable(value.__module__):
                cloudpickle.register_pickle_by_value(module)
        return super().reducer_override(value)


@functools.cache
def _is_importable(module: str) -> bool:
    """Whether `import` finds the module, or the package that it is of: one made from a file by hand it does not."""
    name = module.partition(".")[0]
    return any(finder.find_spec(name, None) is not None for finder in sys.meta_path)


def _bytes_of(program: Program) -> bytes:
    with tempfile.TemporaryDirectory(prefix="fxpress-") as folder:
        path = Path(folder) / "program"
        program.save(path)
        return path.read_bytes()


def _program_from(data: bytes) -> Program:
    with tempfile.TemporaryDirectory(prefix="fxpress-") as folder:
        path = Path(folder) / "program"
        path.write_bytes(data)
        return Program.load(path)


def pack(value: Any) -> bytes:
    """The value as bytes for another of our processes. Raises what its parts raise when they are pickled."""
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """The value that another of our processes packed."""
    return pickle.loads(data)


def pack_trials(trials: Trials) -> bytes:
    """The Trials for a worker, which has a progress of its own. Raises InvalidInput naming what cannot be pickled."""
    trials = copy.copy(trials)
    trials.task = replace(trials.task, progress=_silent)
    try:
        return pack(trials)
    except Exception as error:  # whatever the user's objects raise
        raise InvalidInput(
            f"{_culprit(trials)} must be something that can be sent to worker processes, but: {error}; have it open "
            'files, loaders and the like when it is called, or use executor="local"'
        ) from error


def _culprit(trials: Trials) -> str:
    parts = {f"{name}=": value for name, value in vars(trials.task).items()}
    parts |= {f"phase {phase.name}": phase for phase in trials.strategy.phases}
    for name, value in parts.items():
        try:
            pack(value)
        except Exception:  # whatever the user's objects raise
            return name
    return "the search"


def _silent(stage: str) -> None:
    pass


@dataclass(frozen=True)
class Failure:
    """An error on its way to another process, and its traceback. Made anew without a call of its constructor."""

    kind: type[BaseException]
    arguments: tuple[Any, ...]
    state: dict[str, Any]
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The error's, or where it cannot be pickled that of a RuntimeError with its text."""
        trace = "".join(traceback.format_exception(error))
        found = cls(type(error), error.args, vars(error), trace)
        try:
            pack(found)
        except Exception:  # whatever the error's attributes raise
            return cls(RuntimeError, (f"{type(error).__name__}: {error}",), {}, trace)
        return found

    def error(self) -> BaseException:
        """The error, caused by what shows its traceback."""
        error = self.kind.__new__(self.kind, *self.arguments)
        error.__dict__.update(self.state)
        error.__cause__ = WorkerTraceback(self.trace)
        return error


class WorkerTraceback(Exception):
    """Where in a worker an error was raised, as text."""

    def __str__(self) -> str:
        return f"\nIn a worker:\n{self.args[0]}"


def outcome_of(make: Callable[[], Any]) -> bytes:
    """What `make` returns, packed, or the Failure that it was."""
    try:
        return pack(make())
    except BaseException as error:  # also SystemExit: nothing of a trial may end its worker unseen
        return pack(Failure.of(error))


def value_from(outcome: bytes) -> Any:
    """What was made elsewhere. Raises the error that it was instead."""
    found = unpack(outcome)
    if isinstance(found, Failure):
        raise found.error()
    return found
