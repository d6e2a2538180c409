"""`fxpress optimize`, `report` and `replay`: a search described by a file, the page of what it found, a model again."""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from ..errors import InvalidInput
from ..optimizing import optimize
from ..progress import TerminalProgress
from ..report.frontier_picture import FORMATS
from ..search.frontier import Frontier
from ..search.peers import check_peers
from ..search.points import Point
from ..search.recipes import Recipe
from ..search.replaying import replay
from .formatting import console
from .models import load_model
from .objects import find_object
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
    "executor": str,
    "workers": int,
    "peers": dict,
    "output": str,
}
"""What the file may say, and as what."""
_PLAIN = (
    "target", "objectives", "limits", "budget_seconds", "max_trials", "seed", "num_threads", "executor", "workers",
)  # fmt: skip


def optimize_from_file(file: Path, output: Path | None) -> None:
    """Search as `file` (TOML) says; save the frontier and its page. Raises InvalidInput."""
    options = _read(file)
    folder = Path(output or options.get("output", file.with_suffix("").name + "-frontier"))
    given = {name: options[name] for name in _PLAIN if name in options} | _loaded(options, _READERS)
    peers = check_peers(options.get("peers", {}))
    loaded = load_model(options["model"], options.get("inputs", []))
    frontier = optimize(
        loaded.model, loaded.args, loaded.kwargs, storage=options.get("storage", folder / "search"), **given
    ).with_peers(peers)
    frontier.save(folder)
    frontier.report(folder / "report.html", loaded.name)
    print_frontier(frontier)
    console().print(f"wrote {folder}/report.html and {len(frontier.points)} artifacts", style="dim")


def report_frontier(folder: Path, path: Path) -> None:
    """Write the page of a saved frontier, a picture when `path` ends like one. Raises InvalidInput."""
    frontier = Frontier.load_from(folder)
    if path.suffix in FORMATS:
        frontier.plot(path)
    elif path.suffix == ".html":
        frontier.report(path)
    else:
        raise InvalidInput(f"output must end in one of {['.html', *FORMATS]}, not be {str(path)!r}")
    print_frontier(frontier)
    console().print(f"wrote {path}", style="dim")


def replay_from_file(file: Path, found: Path, number: int | None, output: Path) -> None:
    """Make a model of a search that `file` describes once more, and write it.

    `found` is the folder of its frontier, of which `number` is the point, or a JSON file with a recipe. Raises
    InvalidInput, naming the members of the artifact that are not as they were.
    """
    options = _read(file)
    recipe = _recipe(found, number)
    given = _loaded(options, _REPLAYED)
    loaded = load_model(options["model"], options.get("inputs", []))
    with TerminalProgress() as progress:
        artifact = replay(recipe, loaded.model, loaded.args, loaded.kwargs, progress=progress, **given)
    artifact.save(output)
    members = len(artifact.manifest["members"])
    console().print(f"wrote {output}: all {members} members are equal to those that the search made", style="dim")


def _recipe(found: Path, number: int | None) -> Recipe | Point:
    if found.is_dir():
        frontier = Frontier.load_from(found)
        points = {point.number: point for point in (frontier.original, *frontier.tried)}
        if number not in points:
            raise InvalidInput(f"--point must be a number of 0 to {max(points)} that was tried, not {number}")
        return points[number]
    if number is not None:
        raise InvalidInput(f"--point must go with the folder of a frontier, not with the recipe {str(found)!r}")
    try:
        return json.loads(found.read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"recipe must be a folder of a frontier or a JSON file, not {str(found)!r}: {error}"
        ) from error


def print_frontier(frontier: Frontier) -> None:
    """The points as a table."""
    table = Table("", *(objective.name for objective in frontier.objectives), "what was done")
    shown = {point.number: point for point in (frontier.original, *frontier.points)}
    for point in shown.values():
        numbers = [objective.text(point.value(objective)) for objective in frontier.objectives]
        table.add_row(str(point.number), *numbers, point.describe())
    console().print(table)
    if frontier.promises_text():
        console().print(frontier.promises_text(), style="dim")


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


def _loaded(options: Mapping[str, Any], readers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    return {name: read(options[name]) for name, read in readers.items() if name in options}


def _function(option: str) -> Callable[[str], Any]:
    def read(source: str) -> Any:
        found = find_object(option, source)
        if not callable(found):
            raise InvalidInput(f"{option} must be a function, not {type(found).__name__}")
        return found

    return read


def _batches(source: str) -> Any:
    """What `train` names: batches, or a function that returns them or trains a module."""
    found = find_object("train", source)
    if isinstance(found, Iterable):
        return found
    if not callable(found):
        raise InvalidInput(f"train must be batches or a function, not {type(found).__name__}")
    takes_module = len(inspect.signature(found).parameters) == 1
    return found if takes_module else found()


def _strategy(source: str) -> Any:
    """A strategy's name, or one of the user's own."""
    return find_object("strategy", source) if ":" in source else source


def _learning(table: Mapping[str, Any]) -> Any:
    from ..learn.config import TrainConfig

    try:
        return TrainConfig.from_json(table)
    except (TypeError, ValueError) as error:  # of options of techniques
        raise InvalidInput(f"learning must be like what TrainConfig.to_json writes, not {table!r}: {error}") from error


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "calibration": load_calibration,
    "evaluate": _function("evaluate"),
    "loss": _function("loss"),
    "train": _batches,
    "strategy": _strategy,
    "learning": _learning,
}
"""What the file's texts and tables mean."""
_REPLAYED = {name: read for name, read in _READERS.items() if name != "evaluate"}
"""Those on which artifacts rest."""
