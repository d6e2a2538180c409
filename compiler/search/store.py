"""The folder of a search: Programs and artifacts by what they were made from, points, and a lock."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..program import Program
from ..runtime.container import replaced_file
from .footprint import Footprint
from .phases import Options, Strategy, Task

Step = tuple[str, Options]
"""A phase's name and what it was told."""


class Store:
    """What a search has made, kept under hashes of what it depends on: a trial reuses what another made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for name in ("programs", "artifacts", "points"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"storage must be a folder that can be written, not {str(folder)!r}: {error}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Held by one search at a time. Raises InvalidInput while another one, in any process, holds it."""
        with open(self.folder / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidInput(
                    f"storage {str(self.folder)!r} must be of one search at a time, but another one uses it now; "
                    "wait for it, or give this one a folder of its own"
                ) from error
            yield

    def program(self, key: str, make: Callable[[], Program]) -> Program:
        """The Program kept under `key`, made and kept when there is none."""
        path = self.folder / "programs" / f"{key}.program"
        if not path.exists():
            program = make()
            with _explained(path):
                program.save(path)
        return Program.load(path)

    def artifact(self, key: str) -> Path:
        """Where the artifact of the Program under `key` is, or will be."""
        return self.folder / "artifacts" / f"{key}.fxp"

    def write_json(self, name: str, value: Any) -> None:
        """Write a small file, whole or not at all."""
        path = self.folder / name
        with _explained(path), replaced_file(path) as file:
            file.write(json.dumps(value, indent=1).encode())

    def footprint(self, key: str) -> Footprint | None:
        """What the artifact under `key` was measured to cost, on this machine with these versions."""
        path = self.folder / "artifacts" / f"{key}.json"
        return Footprint(**json.loads(path.read_text())) if path.exists() else None


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{str(path)!r} must be a file that can be written: {error}; what the search found so far is kept: make "
            "room and start it again with the same storage"
        ) from error


def chain_key(digest: str, steps: Sequence[Step]) -> str:
    """What a Program is kept under that came from a Task's by these steps."""
    return hashlib.sha256(json.dumps([digest, list(steps)], sort_keys=True).encode()).hexdigest()[:24]


def run_phases(
    strategy: Strategy, candidate: Options, task: Task, store: Store, digest: str, *, structure_only: bool = False
) -> tuple[Program, str, list[Step]]:
    """Apply a strategy's phases, as the candidate says, reusing what is kept; the Program, its key and the steps.

    With `structure_only` those that keep the structure are left out: time and size are what they will be.
    """
    program, steps = task.original, list[Step]()
    key = chain_key(digest, steps)
    for phase in strategy.phases:
        options = phase.options(candidate)
        if phase.is_off(options) or (structure_only and phase.keeps_structure):
            continue
        task.progress(phase.name)
        steps = [*steps, (phase.name, options)]
        key = chain_key(digest, steps)
        program = store.program(key, partial(phase.run, program, options, task))
        if phase.teaches:
            task = replace(task, teacher=program)
    return program, key, steps
