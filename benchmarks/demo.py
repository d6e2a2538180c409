"""`make demo`: compile an image classifier and a sentence encoder, run both without PyTorch, compare latencies."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import fxpress
import machine
import run
import torch
import transformers
import typer
from judge import Reference, arrays, judge, reference
from models import MODELS
from peers import OURS, aligned
from rich.console import Console

ARTIFACTS = {"efficientnet-lite0": "efficientnet-lite0.fxp", "minilm-b1": "minilm.fxp"}
PEERS = [OURS, "eager", "inductor", "ort", "openvino"]


def compile_and_check(name: str, path: Path, threads: int, console: Console) -> None:
    """Compiles one model, judges it against PyTorch and saves the artifact. Raises RuntimeError if it is wrong."""
    module, args, kwargs = MODELS[name].build()
    start = time.perf_counter()
    artifact = fxpress.compile(module, args, kwargs, target="cpu", num_threads=threads)
    seconds = time.perf_counter() - start
    expected: Reference = reference(module, args, kwargs)
    verdict = judge(arrays(artifact(*map(aligned, args))), expected)
    if verdict.reason is not None:
        raise RuntimeError(f"the compiled {name} must agree with PyTorch, but {verdict.reason}")
    artifact.save(path)
    console.print(
        f"[bold]{name}[/]: compiled in {seconds:.1f} s, {path.stat().st_size / 1e6:.1f} MB, "
        f"error against float64 {max(verdict.errors):.1e} (PyTorch float32: {max(expected.errors):.1e})"
    )


def main(
    directory: Annotated[Path, typer.Option(help="where the artifacts go")] = Path("build/demo"),
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="bursts of every competitor")] = 5,
) -> None:
    """Show the whole road of two models: compile, check, run without PyTorch, compare."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()  # its report of the unused pooling layer
    transformers.logging.disable_progress_bar()
    console.rule("compile")
    for name, file in ARTIFACTS.items():
        compile_and_check(name, directory / file, threads, console)
    console.rule("run, in a process that cannot import PyTorch")
    subprocess.run([sys.executable, str(Path(__file__).with_name("demo_runtime.py")), str(directory)], check=True)
    console.rule("latency, everybody interleaved")
    with console.status("measuring (exports and compiles for every competitor first)"):
        found = {
            name: run.measure(
                name, attempts=1, peer_names=PEERS, dtype="f32", threads=threads, rounds=rounds, lock=None
            )
            for name in ARTIFACTS
        }
    settings = {"threads": threads, "peers": PEERS}
    console.print(run.table({"settings": settings, "machine": machine.machine(), "models": found}))


if __name__ == "__main__":
    typer.run(main)
