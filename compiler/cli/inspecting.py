"""`fxpress inspect` and `fxpress passes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from ..registry import entries, lookup
from ..report.quantities import bytes_text
from ..runtime.container import Container
from ..runtime.manifest import Manifest
from .formatting import console


def inspect_artifact(path: Path, *, as_json: bool) -> None:
    """Print an artifact's metadata; its hashes are checked, its code is not loaded."""
    container = Container(path)
    data = container.manifest
    if as_json:
        print(json.dumps(data, indent=1))
        return
    manifest = Manifest.from_json(data)
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    table.columns[0].style = "bold"

    def row(name: str, value: Any) -> None:
        table.add_row(name, str(value))

    row("artifact", f"{path}  {bytes_text(path.stat().st_size)}")
    row("digest", container.digest)
    row("written by", f"fxpress {data.get('fxpress', '?')}, format {data['format']}")
    row("target", f"{manifest.target} on {manifest.machine}")
    row("CPU features", " ".join(sorted(manifest.features)))
    for spec in manifest.inputs:
        row("input", spec)
    for spec, limit in zip(manifest.output_specs, manifest.tolerances, strict=True):
        row("output", f"{spec}  (self-test allows an error of {limit:.2g})")
    row("calls", f"{manifest.calls}, {manifest.prepare_calls} more at load, {len(manifest.host_calls)} between kernels")
    row(
        "memory",
        f"constants {bytes_text(manifest.constants_bytes)}, made at load {bytes_text(manifest.derived_bytes)}, "
        f"arena per caller {bytes_text(manifest.arena_bytes)}",
    )
    row("pipeline", str(data.get("pipeline", "")).replace(",", ", "))
    for line in data.get("fallbacks", []):
        row("fallback", line)
    for name, entry in data["members"].items():
        row("member", f"{name}  {bytes_text(entry['size'])}")
    console().print(table)


def list_passes() -> None:
    """Print the pipelines and passes that are registered."""
    out = console()
    pipelines = Table("pipeline", "owner", "what it is", box=None, pad_edge=False, header_style="bold")
    for entry in entries("pipelines").values():
        pipelines.add_row(entry.name, entry.owner, _first_line(lookup("pipelines", entry.name)))
    passes = Table("pass", "accuracy", "owner", "what it does", box=None, pad_edge=False, header_style="bold")
    for entry in sorted(entries("passes").values(), key=lambda entry: entry.name):
        made = lookup("passes", entry.name)
        summary = made.summary if not isinstance(made, type) else _first_line(made)
        passes.add_row(entry.name, made.accuracy, entry.owner, summary)
    out.print(pipelines, "", passes, sep="\n")


def _first_line(thing: Any) -> str:
    import inspect

    return (inspect.getdoc(thing) or "").split("\n", 1)[0]
