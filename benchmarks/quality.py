"""What quantising costs in quality, for fxpress and its peers: python benchmarks/quality.py --output quality.json"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import machine
import torch
import transformers
import typer
from peers import OURS
from quality_tasks import TASKS, Makers, Settings
from quantized_peers import QUANTIZED_PEERS, FxpressInt8, FxpressProgram
from results import FLOAT
from rich.console import Console
from rich.table import Table
from run import HERE, choose

FORMAT = 1


def makers(peers: list[str], configs: list[str], compiled: bool, data_free: bool) -> Makers:
    """What makes each peer for a calibration; ours once for each config, under the config's name, and without data."""
    found: Makers = {}
    for peer in peers:
        if peer == OURS:
            ours = FxpressInt8 if compiled else FxpressProgram
            found |= {f"{OURS} {config}": functools.partial(ours, config=config) for config in configs}
            if data_free:
                found[f"{OURS} {configs[0]} data-free"] = functools.partial(ours, config=configs[0], data_free=True)
        else:
            found[peer] = functools.partial(QUANTIZED_PEERS[peer], thorough=False)
    return found


def table(name: str, task: dict[str, Any]) -> Table:
    """One row a peer, one column a number."""
    columns = list(dict.fromkeys(key for entry in task["peers"].values() for key in entry if key != "drops"))
    facts = ", ".join(f"{key} {value:.5g}" for key, value in task.items() if key != "peers")
    view = Table(title=f"{name}: {facts}")
    for column in ("", *columns):
        view.add_column(column, justify="right" if column else "left")
    for peer, entry in task["peers"].items():
        view.add_row(peer, *(_cell(entry.get(column)) for column in columns))
    return view


def _cell(value: float | str | None) -> str:
    return f"{value:.5g}" if isinstance(value, float) else (value or "")[:60]


def main(
    tasks: Annotated[str, typer.Option(help="names, separated by commas")] = ",".join(TASKS),
    peers: Annotated[str, typer.Option(help="names, separated by commas")] = f"{OURS},ort,openvino",
    configs: Annotated[str, typer.Option(help="presets of fxpress.quantize, separated by commas")] = "int8",
    calibration: Annotated[int, typer.Option(min=1, help="inputs to calibrate with")] = Settings.calibration,
    images: Annotated[int, typer.Option(min=1, help="crops of photographs to compare on")] = Settings.images,
    texts: Annotated[int, typer.Option(min=2, help="texts to compare on")] = Settings.texts,
    folds: Annotated[int, typer.Option(min=1, max=5, help="fifths of the digits to leave out in turn")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="classifiers trained for each fold")] = Settings.seeds,
    threads: Annotated[int, typer.Option(min=1)] = Settings.threads,
    data_free: Annotated[bool, typer.Option(help="ours once more, without calibration inputs")] = True,
    compiled: Annotated[
        bool, typer.Option(help="run our artifact, not the Program in PyTorch, which computes the same integers")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="the JSON file; a dated name in benchmarks/results if not given")
    ] = None,
) -> None:
    """Quantise with every peer from the same calibration inputs, compare with float32 and the truth, write JSON."""
    settings = Settings(calibration, images, texts, folds, seeds, threads)
    chosen = choose(tasks, list(TASKS), "tasks")
    made = makers(
        choose(peers, [n for n in QUANTIZED_PEERS if n != FLOAT], "peers"), configs.split(","), compiled, data_free
    )
    now = datetime.datetime.now(datetime.UTC)
    path = output or HERE / "results" / f"quality-{now:%Y-%m-%d-%H%M}.json"
    quiet()
    torch.set_num_threads(threads)
    found: dict[str, Any] = {
        "format": FORMAT,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": asdict(settings) | {"compiled": compiled},
        "tasks": {},
    }
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name in chosen:
        with console.status(name) as status:
            found["tasks"][name] = TASKS[name](made, settings, status.update)
        console.print(table(name, found["tasks"][name]))
        path.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"wrote {path}")


def quiet() -> None:
    """No reports of the libraries on loading weights, nor their warnings."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    typer.run(main)
