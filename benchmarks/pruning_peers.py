"""What fxpress and torch-pruning make of the models of the suites at equal ratios: python benchmarks/pruning_peers.py

For each model and ratio: whether it can be pruned, whether the result runs and keeps the shapes of its outputs,
multiplications and parameters before and after. With --latency both results and the unpruned model are compiled with
our backend and the same options, and timed in interleaved bursts. Results are merged into the file by model.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import fxpress
import machine
import torch
import typer
from fxpress.passes.pruning.config import PruneConfig
from measure import interleave
from models import MODELS, Model
from peers import aligned, missing
from rich.console import Console
from rich.table import Table
from run import HERE, choose
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from torch_pruning_peer import SETTINGS, settings_of, shapes
from worker import FAILURES

FORMAT = 1
RATIOS = (0.25, 0.5)
OURS, EXACT, PEER = "fxpress", "fxpress-exact", "torch-pruning"
"""Ours by default, whose widths are rounded up to what the kernels like; with the ratio's exact widths; the peer."""
FAILS = (*FAILURES, NotImplementedError, ZeroDivisionError)

Call = Callable[..., Any]


def multiplications(call: Call, *args: Any) -> int:
    """How often two numbers are multiplied and added in products of matrices, convolutions and attention."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call(*args)
    return counter.get_total_flops() // 2


def parameters(module: nn.Module) -> int:
    """The numbers in all parameters, shared ones once."""
    return sum(x.numel() for x in module.parameters())


def sizes_of(program: fxpress.Program) -> dict[str, int]:
    """Multiplications and parameters of a Program."""
    constants = program.constants
    named = {str(n.target) for n in program.nodes if n.op == "get_attr" and n.meta.get("parameter")}
    return {
        "multiplications": multiplications(program.run_flat, *program.example_inputs),
        "parameters": sum(x.numel() for name, x in constants.items() if name in named),
    }


def ours(module: nn.Module, args: tuple[Any, ...], config: float | PruneConfig) -> tuple[dict[str, Any], Any]:
    """Prune with fxpress: what is known of the result, and the result."""
    start = time.perf_counter()
    program = fxpress.prune(module, config, args=args, progress=lambda stage: None)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        expected, found = shapes(module(*args)), shapes(program.run(*args))
    return {"ok": expected == found, "seconds": seconds, **sizes_of(program)}, program


def theirs(model: Model, module: nn.Module, args: tuple[Any, ...], ratio: float) -> tuple[dict[str, Any], Any]:
    """Prune with torch-pruning: the outcome of each of its settings, and the first result that keeps the outputs."""
    outcomes: dict[str, Any] = {}
    result = None
    with torch.no_grad():
        expected = shapes(module(*args))
    for setting in settings_of(model.kind):
        pruned = copy.deepcopy(module).requires_grad_(True)  # it follows the graph of gradients
        stage = "prune"
        start = time.perf_counter()
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                whole_heads = SETTINGS[setting](model.name, pruned, args, ratio)
            seconds = time.perf_counter() - start
            stage = "run"
            pruned.requires_grad_(False)
            with torch.no_grad():
                found = shapes(pruned(*args))
        except FAILS as error:
            text = " ".join(str(error).split())[:300]
            outcomes[setting] = {"ok": False, "failed": f"{stage}: {type(error).__name__}: {text}"}
            continue
        if found != expected:
            outcomes[setting] = {"ok": False, "failed": f"outputs: shapes {found[:2]} instead of {expected[:2]}"}
            continue
        outcomes[setting] = {
            "ok": True,
            "seconds": seconds,
            "whole_heads": whole_heads,  # else the result runs, but its heads are made of parts of others
            "multiplications": multiplications(pruned, *args),
            "parameters": parameters(pruned),
        }
        if outcomes[setting]["parameters"] == parameters(module):
            outcomes[setting] |= {"ok": False, "failed": "nothing was removed"}
            continue
        result = pruned  # the later setting removes heads as well
    return {"settings": outcomes, "ok": result is not None}, result


def compiled(model: Any, args: tuple[Any, ...], threads: int) -> Call:
    """The artifact of a model or Program as a call on numpy inputs."""
    artifact = fxpress.compile(model, args, target="cpu", num_threads=threads)
    inputs = tree_map(aligned, args)
    return lambda: artifact(*inputs)


def measure(name: str, ratios: list[float], *, latency: bool, threads: int, rounds: int) -> dict[str, Any]:
    """The entry of one model."""
    model = MODELS[name]
    module, args, _ = model.build()
    entry: dict[str, Any] = {
        "suite": model.suite,
        "multiplications": multiplications(module, *args),
        "parameters": parameters(module),
        "ratios": {},
    }
    calls: dict[str, Call] = {"unpruned": compiled(module, args, threads)} if latency else {}
    for ratio in ratios:
        mine, program = ours(module, args, ratio)
        exact, narrow = ours(module, args, PruneConfig(ratio=ratio, multiple=1))
        peer, pruned = theirs(model, module, args, ratio)
        entry["ratios"][str(ratio)] = {OURS: mine, EXACT: exact, PEER: peer}
        if exact["parameters"] == mine["parameters"]:
            narrow = None  # the same widths
        for who, result in ((OURS, program), (EXACT, narrow), (PEER, pruned)):
            if latency and result is not None:
                try:
                    calls[f"{who} {ratio}"] = compiled(result, args, threads)
                except FAILS as error:
                    reason = " ".join(str(error).split())[:300]
                    entry["ratios"][str(ratio)][who]["compile"] = f"{type(error).__name__}: {reason}"
    if latency:
        found = interleave(calls, rounds=rounds, threads=threads)
        entry["latency"] = {key: asdict(value) for key, value in found.latencies.items()}
        entry["noisy"] = found.noisy
    return entry


def table(document: dict[str, Any]) -> Table:
    """Who could prune what, what is left, and how much faster that is."""
    shown = Table(title="pruned by fxpress and by torch-pruning, compiled with the same backend")
    peers = [name for who in (OURS, EXACT, PEER) for name in ("multiplied", "parameters", who)]
    for column in ("model", "ratio", *peers):
        shown.add_column(column, justify="left" if column == "model" else "right")
    for name, entry in document["models"].items():
        times = entry.get("latency", {})
        for ratio, both in entry["ratios"].items():
            row = [name, ratio]
            for who in (OURS, EXACT, PEER):
                one = both.get(who)
                if one is None:
                    row += ["", "", ""]
                    continue
                known = one if who != PEER else next((s for s in [*one["settings"].values()][::-1] if s["ok"]), None)
                if known is None or not one["ok"]:
                    row += ["", "", "cannot"]
                    continue
                row += [f"{known[key] / entry[key]:.0%}" for key in ("multiplications", "parameters")]
                key = f"{who} {ratio}" if f"{who} {ratio}" in times or who != EXACT else f"{OURS} {ratio}"
                row += [f"{times['unpruned']['median'] / times[key]['median']:.2f}x" if key in times else "can"]
            shown.add_row(*row)
    return shown


def main(
    models: Annotated[str, typer.Option(help="Names, separated by commas; all without it.")] = "",
    ratios: Annotated[str, typer.Option(help="Shares of the units, separated by commas.")] = "0.25,0.5",
    latency: Annotated[bool, typer.Option("--latency", help="Compile and time, too.")] = False,
    threads: int = 2,
    rounds: int = 7,
    output: Path = HERE / "results" / "pruning-peers.json",
) -> None:
    """Prune the models of the suites with fxpress and torch-pruning, and compare."""
    reason = missing("torch_pruning")
    if reason is not None:
        raise typer.BadParameter(f"{reason}; pip install torch-pruning")
    torch.set_num_threads(threads)
    names = choose(models, list(MODELS), "models") if models else list(MODELS)
    document: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"models": {}}
    known = document["models"]
    for name in names:
        found = measure(name, [float(r) for r in ratios.split(",")], latency=latency, threads=threads, rounds=rounds)
        kept = {key: known.get(name, {})[key] for key in ("latency", "noisy") if key in known.get(name, {})}
        known[name] = kept | found
        document = {
            "format": FORMAT,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine.machine(),
            "versions": machine.versions(),
            "settings": {"threads": threads, "rounds": rounds},
            "models": {key: known[key] for key in MODELS if key in known},
        }
        unfinished = output.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(unfinished, output)
    Console(width=None if sys.stdout.isatty() else 140).print(table(document))


if __name__ == "__main__":
    typer.run(main)
