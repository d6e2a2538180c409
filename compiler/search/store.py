"""The folder of a search: Programs and artifacts by what they were made from, points, and a lock."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..kernel_times import written_down
from ..program import Program
from ..report.outcomes import TRAINING
from ..runtime.container import is_full, replaced_file
from .footprint import Footprint
from .frontier import Point
from .phases import Options, Strategy, Task

FOLDERS = ("programs", "artifacts", "points")
_TOKEN = "token"
Step = tuple[str, Options]
"""A phase's name and what it was told."""


class StorageFailed(InvalidInput):
    """The folder of a search cannot be written to, as when the disk is full; what it holds is whole."""


class Store:
    """What a search has made, kept under hashes of what it depends on: a trial reuses what another made."""

    def __init__(self, folder: Path, times: Mapping[str, float] | None = None) -> None:
        self.folder = folder
        self._times = times or {}
        try:
            for name in FOLDERS:
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"storage must be a folder that can be written, not {str(folder)!r}: {error}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Held by one search at a time. Raises InvalidInput while another one, in any process, holds it."""
        with explained(self.folder / "lock"):
            file = open(self.folder / "lock", "w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidInput(
                    f"storage {str(self.folder)!r} must be of one search at a time, but another one uses it now; "
                    "wait for it, or give this one a folder of its own"
                ) from error
            self._sweep()
            try:
                yield
            finally:
                self._sweep()

    def token(self) -> str:
        """A text by which a Store somewhere else tells, with `is_of`, whether its folder is this one."""
        token = uuid.uuid4().hex
        with explained(self.folder / _TOKEN), replaced_file(self.folder / _TOKEN) as file:
            file.write(token.encode())
        return token

    def is_of(self, token: str) -> bool:
        """Whether the folder is the one that gave the token."""
        path = self.folder / _TOKEN
        return path.exists() and path.read_text() == token

    def _sweep(self) -> None:
        """Delete what writers left that were killed."""
        for name in FOLDERS:
            for unfinished in (self.folder / name).glob(".*"):
                unfinished.unlink(missing_ok=True)

    def claim(self, digests: Mapping[str, str]) -> None:
        """Note hashes of what the search is of. Raises InvalidInput naming what differs if it was of something else."""
        path = self.folder / "search.json"
        if not path.exists():
            return _write_json(path, dict(digests))
        kept = json.loads(path.read_text())
        different = sorted(name for name in {*kept, *digests} if kept.get(name) != digests.get(name))
        if different:
            raise InvalidInput(
                f"storage must be of the same search, but {str(self.folder)!r} is of one with other "
                f"{', '.join(different)}; give this one a folder of its own"
            )

    def program(self, key: str, make: Callable[[], Program]) -> Program:
        """The Program kept under `key`, made and kept when there is none."""
        path = self.folder / "programs" / f"{key}.program"
        if not path.exists():
            times = dict(self._times)
            with explained(path, full_only=True), written_down(times):  # phases keep what they measured there too
                program = make()
            _write_json(path.with_suffix(".json"), times)
            with explained(path):
                program.save(path)
        return Program.load(path)

    def measured(self, keys: Iterable[str]) -> dict[str, float]:
        """The seconds of kernels that decided how the Programs under `keys` are made."""
        files = [self.folder / "programs" / f"{key}.json" for key in keys]
        return {
            name: seconds for file in files if file.exists() for name, seconds in json.loads(file.read_text()).items()
        }

    def artifact(self, key: str) -> Path:
        """Where the artifact of the Program under `key` is, or will be."""
        return self.folder / "artifacts" / f"{key}.fxp"

    def footprint(self, key: str, measure: Callable[[], Footprint]) -> Footprint:
        """What the artifact under `key` costs, measured and kept when it is not known."""
        path = self.folder / "artifacts" / f"{key}.json"
        if path.exists():
            return Footprint(**json.loads(path.read_text()))
        found = measure()
        _write_json(path, found.to_json())
        return found

    def points(self) -> list[Point]:
        """What was tried so far, in order."""
        files = sorted((self.folder / "points").glob("*.json"))
        return [Point.from_json(json.loads(file.read_text()), self.folder / "artifacts") for file in files]

    def add_point(self, point: Point) -> None:
        """Keep what a trial gave."""
        _write_json(self.folder / "points" / f"{point.number:05}.json", point.to_json())


def _write_json(path: Path, value: Any) -> None:
    """Write a small file, whole or not at all."""
    with explained(path), replaced_file(path) as file:
        file.write(json.dumps(value, indent=1).encode())


@contextlib.contextmanager
def explained(path: Path, *, full_only: bool = False) -> Iterator[None]:
    """Inside, `path` is written. Raises StorageFailed when it cannot be; with `full_only`, when the disk is full."""
    try:
        yield
    except (OSError, InvalidInput) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not (is_full(cause) if full_only else isinstance(cause, OSError)):
            raise
        raise StorageFailed(
            f"{str(path)!r} must be a file that can be written: {error}; what the search found so far is kept: make "
            "room and start it again with the same storage"
        ) from error


def _named(program: Program, phase: str) -> Program:
    """The Program whose trainings that no phase has claimed yet are this one's."""
    program.history[:] = [
        replace(record, decisions=tuple({"phase": phase, **row} for row in record.decisions))
        if record.name == TRAINING
        else record
        for record in program.history
    ]
    return program


def chain_key(digest: str, steps: Sequence[Step]) -> str:
    """What a Program is kept under that came from a Task's by these steps."""
    return hashlib.sha256(json.dumps([digest, list(steps)], sort_keys=True).encode()).hexdigest()[:24]


def run_phases(
    strategy: Strategy, candidate: Options, task: Task, store: Store, digest: str, *, structure_only: bool = False
) -> tuple[Program, str, list[Step]]:
    """Apply a strategy's phases, as the candidate says, reusing what is kept; the Program, its key and the steps.

    With `structure_only` those that keep the structure are left out: time and size are what they will be.
    """
    phases = [
        (phase, phase.told(candidate))
        for phase in strategy.phases
        if not phase.is_off(phase.options(candidate)) and not (structure_only and phase.keeps_structure)
    ]
    steps: list[Step] = [(phase.name, options) for phase, options in phases]

    def after(count: int) -> Program:
        """The Program after so many phases. Those before it are only looked at when it is not kept."""
        return store.program(chain_key(digest, steps[:count]), partial(made, count - 1)) if count else task.original

    def made(number: int) -> Program:
        phase, options = phases[number]
        before = after(number)
        task.progress(phase.name)
        taught = [n for n in range(number) if phases[n][0].teaches]
        given = replace(task, teacher=after(taught[-1] + 1)) if taught else task
        return _named(phase.run(before, options, given), phase.name)

    return after(len(steps)), chain_key(digest, steps), steps
