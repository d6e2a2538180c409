"""`fxpress optimize` and `fxpress report`: a search described by a file, and the page of what it found."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from ..errors import InvalidInput
from ..optimizing import optimize
from ..search.frontier import Frontier
from .formatting import console
from .models import find_object, load_model
from .quantizing import load_calibration

OPTIONS: Mapping[str, type | tuple[type, ...]] = {
    "model": str,
    "inputs": list,
    "calibration": str,
    "evaluate": str,
    "train": str,
    "loss": str,
    "learning": dict,
    "target": str,
    "strategy": str,
    "objectives": list,
    "limits": dict,
    "budget_seconds": (int, float),
    "max_trials": int,
    "storage": str,
    "seed": int,
    "num_threads": int,
    "output": str,
}
"""What the file may say, and as what."""
_PLAIN = ("target", "strategy", "objectives", "limits", "budget_seconds", "max_trials", "seed", "num_threads")
_OBJECTS = ("evaluate", "loss")


def optimize_from_file(file: Path, output: Path | None) -> None:
    """Search as `file` (TOML) says; save the frontier and its page. Raises InvalidInput."""
    options = _read(file)
    folder = Path(output or options.get("output", file.with_suffix("").name + "-frontier"))
    given: dict[str, Any] = {name: options[name] for name in _PLAIN if name in options}
    given |= {name: _object(name, options[name]) for name in _OBJECTS if name in options}
    if "calibration" in options:
        given["calibration"] = load_calibration(options["calibration"])
    if "train" in options:
        given["train"] = _batches(options["train"])
    if "learning" in options:
        from ..learn.config import TrainConfig

        given["learning"] = TrainConfig.from_json(options["learning"])
    loaded = load_model(options["model"], options.get("inputs", []))
    frontier = optimize(
        loaded.model, loaded.args, loaded.kwargs, storage=options.get("storage", folder / "search"), **given
    )
    frontier.save(folder)
    frontier.report(folder / "report.html", loaded.name)
    print_frontier(frontier)
    console().print(f"wrote {folder}/report.html and {len(frontier.points)} artifacts", style="dim")


def report_frontier(folder: Path, path: Path) -> None:
    """Write the page of a saved frontier, a picture when `path` ends in .png. Raises InvalidInput."""
    frontier = Frontier.load_from(folder)
    if path.suffix == ".png":
        frontier.plot(path)
    else:
        frontier.report(path)
    print_frontier(frontier)
    console().print(f"wrote {path}", style="dim")


def print_frontier(frontier: Frontier) -> None:
    """The points as a table."""
    table = Table("", *(objective.name for objective in frontier.objectives), "what was done")
    for point in dict.fromkeys((frontier.original.number, *(p.number for p in frontier.points))):
        shown = next(p for p in (frontier.original, *frontier.tried) if p.number == point)
        numbers = [objective.text(shown.value(objective)) for objective in frontier.objectives]
        table.add_row(str(shown.number), *numbers, shown.describe())
    console().print(table)


def _read(file: Path) -> dict[str, Any]:
    try:
        options = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"config must be a TOML file, not {str(file)!r}: {error}") from error
    for name, value in options.items():
        if name not in OPTIONS:
            raise InvalidInput(f"{file} must hold options among {sorted(OPTIONS)}, not {name!r}")
        if not isinstance(value, OPTIONS[name]) or isinstance(value, bool):
            kinds = OPTIONS[name]
            wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
            raise InvalidInput(f"option {name} of {file} must be {wanted}, not {value!r}")
    if "model" not in options:
        raise InvalidInput(f'{file} must say which model: model = "file.py:name"')
    return options


def _object(option: str, source: str) -> Any:
    path, colon, name = source.rpartition(":")
    if not colon:
        raise InvalidInput(f"{option} must be file.py:name or package.module:name, not {source!r}")
    found = find_object(path, name)
    if not callable(found):
        raise InvalidInput(f"{option} must be a function, not {type(found).__name__}")
    return found


def _batches(source: str) -> Any:
    """What `train` names: batches, or a function that returns them or trains a module."""
    path, colon, name = source.rpartition(":")
    if not colon:
        raise InvalidInput(f"train must be file.py:name or package.module:name, not {source!r}")
    found = find_object(path, name)
    if isinstance(found, Iterable):
        return found
    if not callable(found):
        raise InvalidInput(f"train must be batches or a function, not {type(found).__name__}")
    takes_module = len(inspect.signature(found).parameters) == 1
    return found if takes_module else found()
