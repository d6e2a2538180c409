"""The file of results: its form, how it is written and read, and the ratios that it implies.

    {"format": 1, "date": ..., "machine": {...}, "versions": {...}, "settings": {...},
     "models": {<model>: {"suite", "reference_errors", "rounds", "rejected", "noisy", "peers": {<peer>: entry}}}}

The entry of a peer that ran holds times in seconds (`median`, `p10`, `p90`, `minimum`, `rounds`), `spread`, `calls`,
`errors` for each output, `wrong` (a reason, or null) and `prepare`, the seconds from module to first call. Our own
entry adds `peak_memory` while compiling and `artifact`, the bytes of its members. The entry of one that did not run
holds `failed`, the reason. With 8-bit integers entries hold the `fidelity` to float32 as well, and FLOAT is a peer.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

FORMAT = 1
FLOAT = "fxpress-f32"  # our own float32 artifact beside the 8-bit ones: no peer, but what quantising is measured by
Entry = dict[str, Any]
Results = dict[str, Any]

_TOP = {"format", "date", "machine", "versions", "settings", "models"}
_MODEL = {"suite", "reference_errors", "rounds", "rejected", "noisy", "peers"}
_RAN = {"median", "p10", "p90", "minimum", "rounds", "spread", "calls", "errors", "wrong", "prepare"}


class InvalidResults(ValueError):
    """A file of results does not have the form that this version writes."""


def write(results: Results, path: Path) -> None:
    """Writes the whole file or nothing: an interrupted run leaves the old file as it was."""
    check(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".unfinished")
    with os.fdopen(handle, "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    os.chmod(unfinished, 0o644)
    os.replace(unfinished, path)


def read(path: Path) -> Results:
    """Reads and checks a file of results. Raises InvalidResults if it is not one."""
    try:
        results = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InvalidResults(f"{path} must be a JSON file: {error}") from None
    check(results)
    return results  # type: ignore[no-any-return]


def check(results: Results) -> None:
    """Raises InvalidResults, naming the place, if `results` lacks a field or is of another format."""
    if not isinstance(results, dict):
        raise InvalidResults(f"results must be a JSON object, not {type(results).__name__}")
    _require(results, _TOP, "results")
    if results["format"] != FORMAT:
        raise InvalidResults(f"results must be of format {FORMAT}, not {results['format']!r}: measure again")
    for name, model in results["models"].items():
        _require(model, _MODEL, name)
        for peer, entry in model["peers"].items():
            if "failed" not in entry:
                _require(entry, _RAN, f"{name}, {peer}")


def _require(value: Entry, fields: set[str], place: str) -> None:
    missing = sorted(fields - value.keys())
    if missing:
        raise InvalidResults(f"{place} must have the fields {', '.join(missing)}")


def usable(entry: Entry) -> bool:
    """Whether a peer ran and was right, so that its latency counts."""
    return "failed" not in entry and entry["wrong"] is None


def best_peer(model: Entry, ours: str) -> tuple[str, float] | None:
    """The quickest of the others that was right, and its median in seconds; None if there is none."""
    others = [(e["median"], name) for name, e in model["peers"].items() if name not in (ours, FLOAT) and usable(e)]
    if not others:
        return None
    median, name = min(others)
    return name, median


def ratio(model: Entry, ours: str) -> float | None:
    """Our median over the best peer's: below 1 means faster than everybody. None if either did not run."""
    best = best_peer(model, ours)
    entry = model["peers"].get(ours)
    if best is None or entry is None or not usable(entry):
        return None
    return float(entry["median"] / best[1])


def gain(model: Entry, ours: str) -> float | None:
    """Our median with 8-bit integers over that in float32: below 1 where quantising paid. None if either is missing."""
    entries = [model["peers"].get(name, {"failed": "not measured"}) for name in (ours, FLOAT)]
    if not all(map(usable, entries)):
        return None
    return float(entries[0]["median"] / entries[1]["median"])
