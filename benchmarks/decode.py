"""Linear layers with one row, as when text is decoded, against the memory's bandwidth: python benchmarks/decode.py

Weights rotate through four times the last-level cache: files of a few layers each, copied so that no two share pages.
"""

from __future__ import annotations

import datetime
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import fxpress
import machine
import numpy as np
import torch
import typer
from fxpress.backends.tvm.kernels.base import Access, Kernel, Operand, Registers
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.target import Target
from measure import interleave
from rich.console import Console
from rich.table import Table
from run import HERE
from torch import nn
from tvm.tirx.script import builder as B

FORMAT = 1
STREAM = "read"
FLOAT = "float32"
CONFIGS = (FLOAT, "int8-weights", "int4-weights")
LAYERS = 4  # of one file
VECTORS, LANES = 8, 16


@dataclass(frozen=True)
class Read(Kernel):
    """Combines all of x, int32, by exclusive or: as fast as two cores can read memory."""

    name: ClassVar[str] = "read"
    elements: int
    threads: int

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", "int32"), Operand("y", "int32", write=True)

    def emit(self, x: Access, y: Access) -> None:
        share = self.elements // self.threads
        step = VECTORS * LANES
        with B.parallel(self.threads) as thread:
            mine = x.shifted(thread * share)
            sums = Registers(VECTORS, LANES, "int32")
            for i in range(VECTORS):
                sums[i] = B.broadcast(B.int32(0), LANES)
            with B.serial(share // step) as k:
                for i in range(VECTORS):
                    sums[i] = sums[i] ^ mine.load(k * step + i * LANES, LANES)
            for i in range(1, VECTORS):
                sums[0] = sums[0] ^ sums[i]
            y.store(thread * LANES, sums[0], LANES)


def reader(size: int, threads: int) -> Callable[[], object]:
    """Reads `size` bytes."""
    elements = size // 4 // (threads * VECTORS * LANES) * (threads * VECTORS * LANES)
    kernel = CompiledKernel(Read(elements, threads), Target.parse(f"cpu{{cores={threads}}}"))
    x = np.random.default_rng(0).integers(0, 2**31 - 1, elements, dtype=np.int32)
    y = np.zeros(threads * LANES, np.int32)
    return lambda: kernel(x, y)


def decoder(config: str, width: int, size: int, threads: int, folder: Path) -> tuple[Callable[[], object], int, int]:
    """What runs files of layers one after the other, how many layers these are, and the bytes of their weights."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(LAYERS)]).eval().requires_grad_(False)
    x = torch.randn(1, width)
    program = fxpress.capture(model, (x,)) if config == FLOAT else fxpress.quantize(model, config, args=(x,))
    first = folder / f"{config}.fxp"
    fxpress.compile(program, (x,), num_threads=threads).save(first)
    files = [first]
    stored = first.stat().st_size
    while len(files) * stored < size:
        files.append(folder / f"{config}-{len(files)}.fxp")
        shutil.copyfile(first, files[-1])
    artifacts = [fxpress.runtime.load(file, num_threads=threads) for file in files]
    row = x.numpy()

    def run() -> None:
        for artifact in artifacts:
            artifact(row)

    return run, LAYERS * len(files), stored * len(files)


def main(
    width: Annotated[int, typer.Option(help="rows and columns of every weight")] = 4096,
    configs: Annotated[str, typer.Option(help="float32 and presets of fxpress.quantize")] = ",".join(CONFIGS),
    caches: Annotated[float, typer.Option(help="how many times the last-level cache to rotate through")] = 4.2,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 6,
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "decode.json",
) -> None:
    """Measure each config and the bandwidth of reading, interleaved; print a table, write JSON."""
    about = machine.machine()
    size = int(caches * about["caches"]["L3"])
    chosen = configs.split(",")
    with tempfile.TemporaryDirectory() as folder:
        made = {config: decoder(config, width, size, threads, Path(folder)) for config in chosen}
        calls = {STREAM: reader(size, threads)} | {config: run for config, (run, _, _) in made.items()}
        found = interleave(calls, rounds=rounds, threads=threads)
    bandwidth = size / found.latencies[STREAM].median
    rows = {}
    for config, (_, layers, stored) in made.items():
        latency = found.latencies[config]
        rows[config] = {
            "seconds_per_layer": latency.median / layers,
            "spread": latency.spread,
            "bytes_per_layer": stored / layers,
            "of_bandwidth": stored / latency.median / bandwidth,
            "latency": asdict(latency),
        }
    result = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": about,
        "versions": machine.versions(),
        "settings": {"width": width, "threads": threads, "rounds": rounds, "bytes": size},
        "bandwidth": bandwidth,
        "rejected": found.rejected,
        "configs": rows,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 120)
    view = Table(title=f"{width} x {width} with one row; reading: {bandwidth / 1e9:.1f} GB/s on {threads} threads")
    for column in ("weights", "us a layer", "spread", "bytes", "of the bandwidth", "to float32"):
        view.add_column(column, justify="left" if column == "weights" else "right")
    for config, row in rows.items():
        ratio = row["seconds_per_layer"] / rows[FLOAT]["seconds_per_layer"] if FLOAT in rows else float("nan")
        view.add_row(
            config,
            f"{row['seconds_per_layer'] * 1e6:.0f}",
            f"{row['spread']:.0%}",
            f"{row['bytes_per_layer'] / 1e6:.1f} MB",
            f"{row['of_bandwidth']:.0%}",
            f"{ratio:.2f}",
        )
    console.print(view)


if __name__ == "__main__":
    typer.run(main)
