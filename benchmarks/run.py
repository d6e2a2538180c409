"""Compares fxpress with its peers: python benchmarks/run.py --suite vision --threads 2 --output results.json"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import machine
import plot
import results
import typer
from measure import SPREAD_LIMIT
from models import MODELS, SUITES
from peers import OURS, PEERS
from quantized_peers import QUANTIZED_PEERS
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).parent


def choose(value: str, known: list[str], what: str) -> list[str]:
    """The names in a comma-separated list, all of them known."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise typer.BadParameter(f"{what} must be among {', '.join(known)}, not {', '.join(unknown) or 'empty'}")
    return names


def measure(attempts: int, *, worker: str = "worker.py", **request: Any) -> dict[str, Any]:
    """Measures one model in a process of its own, again if it was noisy. Raises RuntimeError if the process dies."""
    found: list[dict[str, Any]] = []
    for _ in range(attempts):
        found.append(_in_process(worker, request))
        if not found[-1]["noisy"]:
            break
    return min(found, key=lambda entry: len(entry["noisy"]))


def _in_process(worker: str, request: dict[str, Any]) -> dict[str, Any]:
    """One run of a worker's file. Variables that would set thread counts behind the peers' backs are cleared."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    environment |= {"OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as directory:
        asked, answer = Path(directory) / "request.json", Path(directory) / "result.json"
        asked.write_text(json.dumps(request))
        command = [sys.executable, str(HERE / worker), str(asked), str(answer)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"measuring {request['name']} ended with status {done.returncode}:\n{done.stderr[-3000:]}"
            )
        return json.loads(answer.read_text())  # type: ignore[no-any-return]


def duration(seconds: float) -> str:
    """A latency for people: three significant digits in the unit that fits."""
    unit, scale = ("us", 1e6) if seconds < 1e-3 else ("ms", 1e3)
    return f"{seconds * scale:.3g} {unit}" if seconds * scale < 100 else f"{seconds * scale:.0f} {unit}"


def cell(entry: dict[str, Any], best: bool) -> str:
    """A peer's latency and spread, coloured: green the best, red wrong outputs, dim if it did not run."""
    if "failed" in entry:
        return "[dim]-[/]"
    text = duration(entry["median"])
    if entry["spread"] > SPREAD_LIMIT:
        text += f" ±{entry['spread'] / 2:.0%}"
    if entry["wrong"] is not None:
        return f"[red]{text} wrong[/]"
    return f"[green]{text}[/]" if best else text


def quotient(value: float | None) -> str:
    """A ratio of latencies, green where it is not above 1."""
    return "-" if value is None else f"[{'green' if value <= 1 else 'yellow'}]{value:.2f}x[/]"


def table(found: results.Results) -> Table:
    """All latencies, and ours relative to the best peer's."""
    threads = found["settings"]["threads"]
    columns = found["settings"]["peers"]
    view = Table(title=f"median latency, {threads} threads, {found['machine']['cpu']}")
    view.add_column("model")
    for name in columns:
        view.add_column(name, justify="right")
    quotients = {}
    if OURS in columns:
        quotients["ours / best peer"] = results.ratio
    if results.FLOAT in columns:
        quotients["int8 / float32"] = results.gain
    for title in quotients:
        view.add_column(title, justify="right")
    for name, model in found["models"].items():
        medians = [entry["median"] for entry in model["peers"].values() if results.usable(entry)]
        quickest = min(medians, default=None)
        entries = [model["peers"][peer] for peer in columns]
        row = [cell(entry, entry.get("median") == quickest) for entry in entries]
        row += [quotient(of(model, OURS)) for of in quotients.values()]
        view.add_row(name, *row)
    return view


def main(
    suite: Annotated[str, typer.Option(help="vision, text, tiny, or all of them")] = "all",
    models: Annotated[str, typer.Option(help="names, separated by commas, instead of whole suites")] = "",
    peers: Annotated[str, typer.Option(help="names, separated by commas; all if not given")] = "",
    dtype: Annotated[str, typer.Option(help="f32 or int8: what the models are made of")] = "f32",
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="bursts of every peer")] = 8,
    attempts: Annotated[
        int, typer.Option(min=1, help="how often to measure a model whose rounds differ much; the calmest counts")
    ] = 2,
    output: Annotated[
        Path | None, typer.Option(help="the JSON file; a dated name in benchmarks/results if not given")
    ] = None,
    ours: Annotated[bool, typer.Option(help="measure fxpress as well")] = True,
    lock: Annotated[Path | None, typer.Option(help="a file to lock while timing, where a machine is shared")] = None,
) -> None:
    """Measure the latency and correctness of fxpress and its peers, interleaved, and write tables, plots and JSON."""
    known = list({"f32": PEERS, "int8": QUANTIZED_PEERS}[choose(dtype, ["f32", "int8"], "dtype")[0]])
    asked = choose(peers, known, "peers") if peers else known
    asked = [OURS, *(name for name in asked if name != OURS)] if ours else [n for n in asked if n != OURS]
    suites = SUITES if suite == "all" else choose(suite, list(SUITES), "suite")
    names = choose(models, list(MODELS), "models") if models else [n for n in MODELS if MODELS[n].suite in suites]
    now = datetime.datetime.now(datetime.UTC)
    path = output or HERE / "results" / f"{now:%Y-%m-%d-%H%M}-{suite}.json"
    found: results.Results = {
        "format": results.FORMAT,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": {"dtype": dtype, "threads": threads, "rounds": rounds, "peers": asked},
        "models": {},
    }
    console = Console(width=None if sys.stdout.isatty() else 140)
    lost = []
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        for i, name in enumerate(names):
            task = progress.add_task(f"{i + 1}/{len(names)} {name}")
            try:
                found["models"][name] = measure(
                    attempts,
                    name=name,
                    peer_names=asked,
                    dtype=dtype,
                    threads=threads,
                    rounds=rounds,
                    lock=str(lock) if lock else None,
                )
            except RuntimeError as error:
                lost.append(str(error))
            results.write(found, path)
            progress.update(task, total=1, completed=1)
    console.print(table(found))
    for name, model in found["models"].items():
        for peer, entry in model["peers"].items():
            reason = entry.get("failed") or entry["wrong"]
            if reason:
                console.print(f"{name}, {peer}: {reason}", style="dim", markup=False)
    pictures = plot.write(found, path) if found["models"] else ()
    for written in (path, *pictures):
        console.print(f"wrote {written}")
    if lost:
        console.print("\n".join(lost), style="red", markup=False)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
