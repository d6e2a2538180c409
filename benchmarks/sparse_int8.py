"""Quantised layers with zeros in their weights against the same stored dense: python benchmarks/sparse_int8.py

Each artifact is a chain of equal layers, so that calling it hardly counts. Artifacts are compiled first and, with
--artifacts FOLDER, kept: a second run then only measures.

    {"format": 1, "date": ..., "machine": {...}, "versions": {...}, "settings": {...},
     "chains": {<chain>: {"rounds", "rejected", "noisy", "variants": {"dense" or a pattern of zeros: entry}}}}

An entry holds times in seconds (`median`, `p10`, `p90`, `minimum`, `rounds`), `spread`, `calls`, bytes of `constants`
and the `kernels` of the layers. All variants of a pattern compute the same integers; that is checked.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import fxpress
import machine
import numpy as np
import torch
import typer
from fxpress.ops import fxpress as ops
from fxpress.ops.sparse import from_matrix, weight_matrix
from fxpress.rewriter import Rewriter
from fxpress.runtime import load
from fxpress.testing import trace
from measure import interleave
from pruning import write
from rich.console import Console
from rich.table import Table
from run import HERE, duration

FORMAT = 1
DENSE = "dense"
PATTERNS = ("16x4 75%", "16x4 90%", "32x4 75%", "32x4 90%", "2:4", "1:4")


@dataclass(frozen=True)
class Chain:
    """Layers one after the other: linear ones of `rows` rows, or convolutions of images of `rows` x `rows` pixels.

    Layer i is from `widths[i % n]` to `widths[(i + 1) % n]` channels.
    """

    rows: int
    widths: tuple[int, ...]
    layers: int
    kernel: int = 0
    patterns: tuple[str, ...] = PATTERNS

    def weights(self) -> list[torch.Tensor]:
        """The layers' weights without zeros."""
        generator = torch.Generator().manual_seed(0)
        sizes = [self.widths[i % len(self.widths)] for i in range(self.layers + 1)]
        taps = (self.kernel, self.kernel) if self.kernel else ()
        return [
            torch.randint(1, 128, (oc, ic, *taps), generator=generator, dtype=torch.int8)
            * torch.randint(0, 2, (oc, ic, *taps), generator=generator, dtype=torch.int8).mul(2).sub(1)
            for ic, oc in itertools.pairwise(sizes)
        ]

    def program(self, pattern: str) -> fxpress.Program:
        """The chain with that pattern of zeros in its weights."""
        shape = (1, self.rows, self.rows, self.widths[0]) if self.kernel else (self.rows, self.widths[0])
        x = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(1), dtype=torch.int8)
        program = trace(lambda x: x, x)
        rw = Rewriter(program)
        node = program.placeholders[0]
        for number, whole in enumerate(self.weights()):
            weight = with_zeros(whole, pattern, number)
            oc, depth = weight.shape[0], int(weight[0].count_nonzero())
            constants = [
                rw.constant(f"{name}_{number}", value)
                for name, value in (("w", weight), ("b", torch.zeros(oc, dtype=torch.int32)), ("s", torch.ones(oc)))
            ]
            numbers = [None, constants[2], 1.0, 0, 1.0, 0, 74.0 * max(depth, 1) ** 0.5, 0, -128, 127]
            operands = [node, constants[0], constants[1], *numbers]
            if self.kernel:
                pad = self.kernel // 2
                where = [[1, 1], [pad] * 4, [1, 1], 1, "F", True]
                node = rw.call(ops.quantized_conv.default, *operands, *where, at=program.output_node)
            else:
                node = rw.call(ops.quantized_linear.default, *operands, "F", at=program.output_node)
        rw.output(node)
        rw.finish()
        return program


CHAINS = {
    "linear 128 x 768 x 768": Chain(128, (768,), 8),
    "conv 1x1 14 x 14 x 256 <-> 1024": Chain(14, (256, 1024), 8, 1),
    "conv 3x3 14 x 14 x 256": Chain(14, (256,), 4, 3),
    "linear 1 x 768 x 768": Chain(1, (768,), 8),
    "linear 1 x 4096 x 4096, from memory": Chain(
        1, (4096,), 18, patterns=("16x4 75%", "16x4 90%", "2:4", "anywhere 80%")
    ),
}


def with_zeros(weight: torch.Tensor, pattern: str, seed: int) -> torch.Tensor:
    """`weight` with zeros by lot: "RxC 75%" in blocks, "N:M", or "anywhere 80%"."""
    generator = torch.Generator().manual_seed(seed)
    matrix = weight_matrix(weight)
    n, k = matrix.shape
    if ":" in pattern:
        kept, of = map(int, pattern.split(":"))
        order = torch.rand(n, k // of, of, generator=generator).argsort(-1)
        return from_matrix(matrix * (order < kept).view(n, k), weight.shape)
    where, percent = pattern.removesuffix("%").split()
    r, c = (1, 1) if where == "anywhere" else map(int, where.split("x"))
    blocks = -(-n // r) * -(-k // c)
    gone = torch.randperm(blocks, generator=generator) < round(blocks * int(percent) / 100)
    left = ~gone.view(-(-n // r), -(-k // c))
    return from_matrix(matrix * left.repeat_interleave(r, 0)[:n].repeat_interleave(c, 1)[:, :k], weight.shape)


def artifacts(name: str, chain: Chain, target: str, folder: Path) -> dict[str, Path]:
    """The compiled chain for each variant. The dense one has the zeros of the first pattern, but does not see them."""
    paths = {}
    for variant in (DENSE, *chain.patterns):
        paths[variant] = folder / f"{name} {variant} {target}.fxp".replace("/", "-")
        if not paths[variant].exists():
            program = chain.program(chain.patterns[0] if variant == DENSE else variant)
            pipeline = "default{pack=false}" if variant == DENSE else "default"
            compiled = fxpress.compile(program, target=target, pipeline=pipeline, verify="off", self_test=False)
            (x,) = program.example_inputs
            if not np.array_equal(np.asarray(compiled(x)), program.run(x).numpy()):
                raise RuntimeError(f"{name}, {variant}: the artifact computes other integers than the Program")
            compiled.save(paths[variant])
    return paths


def measured(chain: Chain, paths: dict[str, Path], rounds: int, threads: int) -> dict[str, Any]:
    """The `chains` entry of the results."""
    entries, calls = {}, {}
    for variant, path in paths.items():
        artifact = load(path, num_threads=threads)
        layers = [layer["kernel"] for layer in artifact.manifest["layers"] if "conv" in layer["kernel"]]
        entries[variant] = {
            "constants": artifact.manifest["memory"]["constants"],
            "kernels": sorted(set(layers)),
        }
        x = np.zeros(artifact.manifest["inputs"][0]["shape"], np.int8)
        calls[variant] = functools.partial(artifact, x)
    found = interleave(calls, rounds=rounds, threads=threads)
    for variant, latency in found.latencies.items():
        entries[variant] |= asdict(latency)
    return {"rounds": found.rounds, "rejected": found.rejected, "noisy": list(found.noisy), "variants": entries}


def speedup(chain: dict[str, Any], variant: str) -> float:
    """How many times faster a variant is than the dense one: the median over rounds."""
    whole, sparse = (chain["variants"][name]["rounds"] for name in (DENSE, variant))
    return statistics.median(a / b for a, b in zip(whole, sparse, strict=True))


def table(found: dict[str, Any]) -> Table:
    """Latency, bytes and speedup of each variant."""
    settings = found["settings"]
    view = Table(title=f"median latency, {settings['threads']} threads, {settings['target']}")
    for title in ("chain", "zeros", "latency", "speedup", "bytes", "kernel"):
        view.add_column(title, justify="right" if title in ("latency", "speedup", "bytes") else "left")
    for name, chain in found["chains"].items():
        dense = chain["variants"][DENSE]
        for variant, entry in chain["variants"].items():
            times, share = speedup(chain, variant), entry["constants"] / dense["constants"]
            kernel = entry["kernels"][0].partition(" ")[0]
            noise = " noisy" if variant in chain["noisy"] else ""
            view.add_row(name, variant, duration(entry["median"]) + noise, f"{times:.2f}x", f"{share:.1%}", kernel)
    return view


def measure_chains(
    known: dict[str, Any],
    artifacts: Callable[[str, Any, str, Path], dict[str, Path]],
    measured: Callable[[Any, dict[str, Path], int, int], dict[str, Any]],
    *,
    names: str,
    target: str,
    threads: int,
    rounds: int,
    kept: Path | None,
    compile_only: bool,
    output: Path,
) -> None:
    """Compile the chains that `names` names, measure them unless `compile_only`, write a table and JSON."""
    wanted = [each.strip() for each in names.split(",")]
    chosen = {name: chain for name, chain in known.items() if any(each in name for each in wanted)}
    if not chosen:
        raise typer.BadParameter(f"chains must name some of {list(known)}, not {names!r}")
    found: dict[str, Any] = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": {"threads": threads, "rounds": rounds, "target": target},
        "chains": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = kept or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        ready = {name: artifacts(name, chain, target, folder) for name, chain in chosen.items()}
        if compile_only:
            return
        for name, paths in ready.items():
            found["chains"][name] = measured(chosen[name], paths, rounds, threads)
            write(found, output)  # what is measured is kept if a later chain fails
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table(found))
    console.print(f"wrote {output}")


def main(
    target: Annotated[str, typer.Option(help="the CPU to compile for")] = "cpu",
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="bursts of every variant")] = 6,
    chains: Annotated[str, typer.Option(help="names that contain one of these, separated by commas")] = "",
    artifacts_in: Annotated[Path | None, typer.Option("--artifacts", help="a folder to keep artifacts in")] = None,
    compile_only: Annotated[bool, typer.Option(help="measure nothing")] = False,
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "sparse-int8.json",
) -> None:
    """Measure chains of quantised layers with zeros in their weights, interleaved; write a table and JSON."""
    measure_chains(
        CHAINS, artifacts, measured, names=chains, target=target, threads=threads, rounds=rounds, kept=artifacts_in,
        compile_only=compile_only, output=output,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
