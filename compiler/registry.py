"""Names to loaders of passes, pipelines, targets, backends and commands. Third parties add theirs by entry points.

Entry-point groups: `fxpress.passes` (a Pass instance or class), `fxpress.pipelines` (a function of options returning a
list of passes), `fxpress.targets` (a Target class), `fxpress.backends` (a Backend class), `fxpress.commands` (a typer
app that becomes a command of the command line). Nothing is imported before its name is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import BackendUnavailable, InvalidInput

_OWN: dict[str, dict[str, str]] = {
    "targets": {
        "cpu": "fxpress.cpu:CpuTarget",
        "cuda": "fxpress.backends.cuda.target:CudaTarget",
        "systolic": "fxpress.backends.systolic.target:SystolicTarget",
    },
    "backends": {
        "cuda": "fxpress.backends.cuda.backend:CudaBackend",
        "reference": "fxpress.backends.reference:ReferenceBackend",
        "systolic": "fxpress.backends.systolic.backend:SystolicBackend",
        "tvm": "fxpress.backends.tvm:TvmBackend",
    },
    "commands": {
        "systolic": "fxpress.backends.systolic.cli:app",
    },
}


@dataclass(frozen=True)
class Entry:
    """One registered name: who owns it and how it is loaded."""

    name: str
    owner: str
    load: Callable[[], Any]


@cache
def entries(kind: str) -> dict[str, Entry]:
    """All entries of `kind` ("passes", "pipelines", "targets", "backends", "commands"), our own and installed plugins'.

    Raises InvalidInput when two packages claim one name.
    """
    found = {name: Entry(name, "fxpress", _loader(path)) for name, path in _own(kind).items()}
    for point in entry_points(group=f"fxpress.{kind}"):
        owner = point.dist.name if point.dist is not None else point.value
        if point.name in found:
            raise InvalidInput(
                f"{kind} name {point.name!r} must be unique, but {found[point.name].owner} and {owner} both define it; "
                "uninstall one of them or rename the entry point"
            )
        found[point.name] = Entry(point.name, owner, point.load)
    return found


def kind_of(name: str, *kinds: str) -> str:
    """The first of `kinds` that has an entry `name`. Raises InvalidInput with the nearest names when none has."""
    for kind in kinds:
        if name in entries(kind):
            return kind
    known = sorted({name for kind in kinds for name in entries(kind)})
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
    raise InvalidInput(f"name must be among the registered {' and '.join(kinds)}, not {name!r}; {hint}")


def lookup(kind: str, name: str) -> Any:
    """Load the entry `name` of `kind`.

    Raises InvalidInput with the nearest names when there is none, BackendUnavailable when it cannot be imported.
    """
    entry = entries(kind_of(name, kind))[name]
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise BackendUnavailable(
            f"{name!r} of {entry.owner}, registered in {kind}, must be importable, but: {error}; "
            f"install what it needs, or uninstall {entry.owner}"
        ) from error


def _own(kind: str) -> dict[str, str]:
    if kind in _OWN:
        return _OWN[kind]
    table: dict[str, str] = getattr(importlib.import_module("fxpress.passes"), kind.upper())
    return table


def _loader(path: str) -> Callable[[], Any]:
    return EntryPoint(name="", value=path, group="").load
