"""Compares two files of results: python benchmarks/compare.py old.json new.json"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import results
import typer
from rich.console import Console
from rich.table import Table

SMALLEST = 0.03  # a change below this is never called a change, however quiet the rounds were


@dataclass(frozen=True)
class Change:
    """How a latency moved: `speedup` is old over new, `real` says whether it is more than the two spreads explain."""

    model: str
    peer: str
    old: float
    new: float
    noise: float

    @property
    def speedup(self) -> float:
        return self.old / self.new

    @property
    def real(self) -> bool:
        return max(self.speedup, 1 / self.speedup) - 1 > self.noise


def compare(old: results.Results, new: results.Results) -> list[Change]:
    """Every model and peer that ran right in both files, in the order of the new one."""
    changes = []
    for name, model in new["models"].items():
        before = old["models"].get(name, {"peers": {}})["peers"]
        for peer, entry in model["peers"].items():
            if peer in before and results.usable(entry) and results.usable(before[peer]):
                noise = max(SMALLEST, entry["spread"] + before[peer]["spread"])
                changes.append(Change(name, peer, before[peer]["median"], entry["median"], noise))
    return changes


def differences(old: results.Results, new: results.Results) -> list[str]:
    """What else changed between the two and may explain a change of latency."""
    lines = []
    for place in ("machine", "versions", "settings"):
        for key in sorted(old[place].keys() | new[place].keys()):
            before, after = old[place].get(key), new[place].get(key)
            if before != after:
                lines.append(f"{place} {key}: {before} -> {after}")
    return lines


def table(changes: list[Change]) -> Table:
    """One row a model, one column a peer: old over new, above 1 is faster, marked where it is a real change."""
    peers = list(dict.fromkeys(change.peer for change in changes))
    view = Table(
        title="old latency / new latency (above 1: faster now)",
        caption="coloured: beyond the spread of the rounds",
    )
    view.add_column("model")
    for peer in peers:
        view.add_column(peer, justify="right")
    by_place = {(change.model, change.peer): change for change in changes}
    for model in dict.fromkeys(change.model for change in changes):
        view.add_row(model, *(_cell(by_place.get((model, peer))) for peer in peers))
    return view


def _cell(change: Change | None) -> str:
    if change is None:
        return "-"
    text = f"{change.speedup:.2f}x"
    if not change.real:
        return f"{text}  "
    return f"[green]{text} +[/]" if change.speedup > 1 else f"[red]{text} ![/]"


def main(
    old: Annotated[Path, typer.Argument(help="results before")],
    new: Annotated[Path, typer.Argument(help="results after")],
) -> None:
    """Show how latencies changed from OLD to NEW."""
    before, after = results.read(old), results.read(new)
    console = Console()
    for line in differences(before, after):
        console.print(line, style="dim", markup=False)
    console.print(table(compare(before, after)))


if __name__ == "__main__":
    typer.run(main)
