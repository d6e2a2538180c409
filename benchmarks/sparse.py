"""Float32 layers with zeros in their weights against the same stored dense: python benchmarks/sparse.py

Each artifact is a chain of equal layers, so that calling it hardly counts. Artifacts are compiled and self-tested
first and, with --artifacts FOLDER, kept: a second run then only measures. The file of results has the form that
sparse_int8.py describes, which does the same for quantised layers.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import fxpress
import torch
import typer
from fxpress.runtime import load
from measure import interleave
from run import HERE
from sparse_int8 import DENSE, measure_chains, with_zeros
from torch import nn

PATTERNS = ("32x1 50%", "32x1 75%", "32x1 90%", "16x1 50%", "16x1 75%", "16x1 90%")


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

    def module(self, pattern: str | None) -> nn.Module:
        """The chain with that pattern of zeros in its weights, if any."""
        torch.manual_seed(0)
        sizes = [self.widths[i % len(self.widths)] for i in range(self.layers + 1)]
        layers: list[nn.Module] = []
        for number, (ic, oc) in enumerate(itertools.pairwise(sizes)):
            layer = nn.Conv2d(ic, oc, self.kernel, padding=self.kernel // 2) if self.kernel else nn.Linear(ic, oc)
            layer.requires_grad_(False)
            if pattern is not None:
                layer.weight.copy_(with_zeros(layer.weight, pattern, number))
            share = float(layer.weight.ne(0).double().mean())
            layer.weight.mul_((3 / share) ** 0.5)  # values keep their size from layer to layer
            layers.append(layer)
        return nn.Sequential(*layers).eval()

    def input(self) -> torch.Tensor:
        """What the chain is called with."""
        shape = (1, self.widths[0], self.rows, self.rows) if self.kernel else (self.rows, self.widths[0])
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))


CHAINS = {
    "linear 128 x 768 x 768": Chain(128, (768,), 8),
    "linear 128 x 768 <-> 3072": Chain(128, (768, 3072), 4),
    "conv 1x1 14 x 14 x 256 <-> 1024": Chain(14, (256, 1024), 8, 1),
    "conv 3x3 14 x 14 x 256": Chain(14, (256,), 4, 3),
    "conv 3x3 56 x 56 x 64": Chain(56, (64,), 4, 3),
    "linear 1 x 768 x 768": Chain(1, (768,), 8, patterns=(*PATTERNS, "2:4")),
    "linear 1 x 4096 x 4096, from memory": Chain(
        1, (4096,), 6, patterns=("32x1 75%", "16x1 50%", "16x1 75%", "2:4", "anywhere 75%")
    ),
    "linear 4 x 4096 x 4096, from memory": Chain(4, (4096,), 6, patterns=("2:4", "anywhere 75%")),
}


def artifacts(name: str, chain: Chain, target: str, folder: Path) -> dict[str, Path]:
    """The compiled chain for each variant."""
    paths = {}
    for variant in (DENSE, *chain.patterns):
        paths[variant] = folder / f"{name} {variant} {target}.fxp".replace("/", "-")
        if not paths[variant].exists():
            module = chain.module(None if variant == DENSE else variant)
            fxpress.compile(module, (chain.input(),), target=target, verify="off").save(paths[variant])
    return paths


def measured(chain: Chain, paths: dict[str, Path], rounds: int, threads: int) -> dict[str, Any]:
    """The `chains` entry of the results."""
    x, entries, calls = chain.input().numpy(), {}, {}
    for variant, path in paths.items():
        artifact = load(path, num_threads=threads)
        layers = [layer["kernel"] for layer in artifact.manifest["layers"] if layer["flops"]]
        entries[variant] = {
            "constants": artifact.manifest["memory"]["constants"],
            "derived": artifact.manifest["memory"]["derived"],
            "kernels": list(dict.fromkeys(layers)),
        }
        calls[variant] = lambda artifact=artifact: artifact(x)
    found = interleave(calls, rounds=rounds, threads=threads)
    for variant, latency in found.latencies.items():
        entries[variant] |= asdict(latency)
    return {"rounds": found.rounds, "rejected": found.rejected, "noisy": list(found.noisy), "variants": entries}


def main(
    target: Annotated[str, typer.Option(help="the CPU to compile for")] = "cpu",
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="bursts of every variant")] = 5,
    chains: Annotated[str, typer.Option(help="names that contain one of these, separated by commas")] = "",
    artifacts_in: Annotated[Path | None, typer.Option("--artifacts", help="a folder to keep artifacts in")] = None,
    compile_only: Annotated[bool, typer.Option(help="measure nothing")] = False,
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "sparse.json",
) -> None:
    """Measure chains of float32 layers with zeros in their weights, interleaved; write a table and JSON."""
    measure_chains(
        CHAINS, artifacts, measured, names=chains, target=target, threads=threads, rounds=rounds, kept=artifacts_in,
        compile_only=compile_only, output=output,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
