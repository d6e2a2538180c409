"""Latency of pruned models against unpruned ones: python benchmarks/pruning.py --models resnet-50 --threads 2

    {"format": 1, "date": ..., "machine": {...}, "versions": {...}, "settings": {...},
     "models": {<model>: {"rounds", "rejected", "noisy", "variants": {"unpruned" or "ratio=0.5" or a budget: entry}}}}

An entry holds times in seconds (`median`, `p10`, `p90`, `minimum`, `rounds`), `spread`, `calls`, `flops`, bytes of
`constants`, the share of units that are `left`, and of a budget the `promise` as pruning measured it; or `failed`.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import machine
import typer
from measure import SPREAD_LIMIT
from models import MODELS
from onnx_files import cache_directory
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from run import HERE, choose, duration, measure

FORMAT = 1
WHOLE = "unpruned"
NEVER_SLOWER = ("resnet-50", "mobilenet-v2", "vit-base", "bert-base", "convnext-tiny")
PROMISES = ("efficientnet-lite0", "resnet-50")
RATIOS = "0.05,0.1,0.25,0.5"
BUDGETS = "latency=50%"

Entry = dict[str, Any]


def speedup(model: Entry, variant: str) -> float | None:
    """How many times faster a variant is than the unpruned model: the median over rounds; None if either failed."""
    whole, small = (model["variants"].get(name, {}).get("rounds") for name in (WHOLE, variant))
    if not whole or not small:
        return None
    return statistics.median(a / b for a, b in zip(whole, small, strict=True))


def table(found: Entry) -> Table:
    """Each variant's latency, operations and speedup, which is green where it is not slower."""
    view = Table(title=f"median latency, {found['settings']['threads']} threads, {found['machine']['cpu']}")
    for title in ("model", "variant", "units left", "GFLOP", "latency", "speedup", "promise"):
        view.add_column(title, justify="left" if title in ("model", "variant", "promise") else "right")
    for name, model in found["models"].items():
        for variant, entry in model["variants"].items():
            if "failed" in entry:
                view.add_row(name, variant, "", "", "[dim]-[/]", "", entry["failed"])
                continue
            noise = f" ±{entry['spread'] / 2:.0%}" if entry["spread"] > SPREAD_LIMIT else ""
            times = speedup(model, variant)
            faster = "" if variant == WHOLE or times is None else f"[{'green' if times >= 1 else 'red'}]{times:.2f}x[/]"
            left = "" if variant == WHOLE else f"{entry['left']:.0%}"
            latency = duration(entry["median"]) + noise
            view.add_row(name, variant, left, f"{entry['flops'] / 1e9:.2f}", latency, faster, entry.get("promise", ""))
    return view


def variants(name: str, ratios: list[float], budgets: list[str], everywhere: bool) -> dict[str, Entry]:
    """The options of PruneConfig for each variant of a model. Budgets are for PROMISES, ratios for NEVER_SLOWER, and
    both for models that were asked for by name."""
    found: dict[str, Entry] = {}
    if everywhere or name in NEVER_SLOWER:
        found |= {f"ratio={ratio:g}": {"ratio": ratio} for ratio in ratios}
    if everywhere or name in PROMISES:
        found |= {budget: {"budget": budget} for budget in budgets}
    return found


def write(found: Entry, path: Path) -> None:
    """Writes the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found, indent=1) + "\n")
    unfinished.replace(path)


def main(
    models: Annotated[str, typer.Option(help="names, separated by commas, for all ratios and budgets")] = "",
    ratios: Annotated[str, typer.Option(help="shares of units that go, separated by commas")] = RATIOS,
    budgets: Annotated[str, typer.Option(help="budgets, separated by commas")] = BUDGETS,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="bursts of every variant")] = 8,
    attempts: Annotated[int, typer.Option(min=1, help="how often to measure a noisy model")] = 2,
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "pruning.json",
    lock: Annotated[Path | None, typer.Option(help="a file to lock while timing, where a machine is shared")] = None,
) -> None:
    """Measure pruned models beside unpruned ones, interleaved; write a table and JSON."""
    names = choose(models, list(MODELS), "models") if models else list(dict.fromkeys((*PROMISES, *NEVER_SLOWER)))
    shares = [float(each) for each in ratios.split(",") if each.strip()]
    limits = [each.strip() for each in budgets.split(",") if each.strip()]
    found: Entry = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": {"threads": threads, "rounds": rounds, "ratios": shares, "budgets": limits},
        "models": {},
    }
    console = Console(width=None if sys.stdout.isatty() else 160)
    lost = []
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        for number, name in enumerate(names):
            task = progress.add_task(f"{number + 1}/{len(names)} {name}")
            try:
                found["models"][name] = measure(
                    attempts,
                    worker="pruning_worker.py",
                    name=name,
                    configs=variants(name, shares, limits, everywhere=bool(models)),
                    threads=threads,
                    rounds=rounds,
                    lock=str(lock) if lock else None,
                    cache=str(cache_directory() / "kernel-times"),
                )
            except RuntimeError as error:
                lost.append(str(error))
            write(found, output)
            progress.update(task, total=1, completed=1)
    console.print(table(found))
    console.print(f"wrote {output}")
    slower = [
        f"{name}, {variant}: {times:.3f}x"
        for name, model in found["models"].items()
        for variant in model["variants"]
        if (times := speedup(model, variant)) is not None and times < 1
    ]
    for line in slower:
        console.print(f"slower than unpruned: {line}", style="red", markup=False)
    if lost:
        console.print("\n".join(lost), style="red", markup=False)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
