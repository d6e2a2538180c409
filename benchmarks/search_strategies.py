"""Both of the survey's strategies, over seeds: python benchmarks/search_strategies.py --output FILE.json

Menghani, "Efficient Deep Learning", arXiv:2106.08962, section 4.2. For every seed a ResNet-10 (`resnet10.py`) is
trained with augmentation on the cluttered digits, from other weights and in another order, and becomes better by one
fixed candidate of a strategy. Both artifacts are judged by digits that nothing else saw, and measured in turns.

- "shrink": the net of width 1 shall be ten times smaller and six times faster, and lose half a point at most.
- "learn and shrink": with as much training, a part of it of the whole net before it shrinks, as the search on seed 0
  had it. This was tried first; "shrink" was chosen when it had been seen.
- "grow": the net of width 0.5 becomes half a point better, as an artifact no larger and no slower than before.
- "longer": that net only learns as many epochs more, by itself and from itself: what there is to gain without growing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import fxpress
import numpy as np
import torch
import typer
from cluttered_training import THREADS, Data, Ledger, config, judge, seconds_of, write_json
from fxpress.learn import train
from fxpress.search.phases import Strategy
from fxpress.search.strategies import LEARN, STRATEGIES
from onnx_files import cache_directory
from resnet10 import ResNet10
from scipy import stats
from survey_grid import HERE, document, measure_together
from torch import nn


@dataclass(frozen=True)
class Settings:
    """How much of everything."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    epochs: int = 24
    count: int | None = None  # images of each part, None for all


@dataclass(frozen=True)
class Case:
    """What is done to which net."""

    width: float
    strategy: Strategy
    candidate: Mapping[str, Any]


CASES = {
    "shrink": Case(
        1.0,
        STRATEGIES["shrink-and-improve"],
        {
            "prune.ratio": 0.5,
            "improve.epochs": 26,
            "improve.learning_rate": 3e-3,
            "improve.distill": True,
            "improve.temperature": 4.0,
            "quantize.config": "int8",
        },
    ),
    "learn and shrink": Case(
        1.0,
        Strategy("learn, shrink and improve", (LEARN, *STRATEGIES["shrink-and-improve"].phases)),
        {
            "learn.epochs": 8,
            "learn.learning_rate": 2e-3,
            "prune.ratio": 0.5,
            "improve.epochs": 16,
            "improve.learning_rate": 3e-3,
            "improve.distill": True,
            "improve.temperature": 4.0,
            "quantize.config": "int8",
        },
    ),
    "grow": Case(
        0.5,
        STRATEGIES["grow-improve-and-shrink"],
        {
            "grow.width": 1.5,
            "learn.epochs": 10,
            "learn.learning_rate": 3e-3,
            "prune.ratio": 0.25,
            "improve.epochs": 10,
            "improve.learning_rate": 2e-3,
            "improve.distill": True,
            "improve.temperature": 4.0,
            "quantize.config": "int8",
        },
    ),
    "longer": Case(
        0.5,
        STRATEGIES["grow-improve-and-shrink"],
        {
            "grow.width": 1.0,
            "learn.epochs": 10,
            "learn.learning_rate": 3e-3,
            "improve.epochs": 10,
            "improve.learning_rate": 2e-3,
            "improve.distill": True,
            "improve.temperature": 4.0,
        },
    ),
}


class Seed:
    """All cases of one seed, in `folder`, where what was made before is used again."""

    def __init__(self, seed: int, settings: Settings, folder: Path) -> None:
        self.seed, self.settings, self.folder = seed, settings, folder
        self.data = Data(settings.count)
        folder.mkdir(parents=True, exist_ok=True)

    def trained(self, width: float) -> nn.Module:
        """The net before anything is done to it."""
        batches = self.data.train(self.folder / f"{width}.seconds")
        chosen = config(self.settings.epochs, self.seed, augmented=True)
        checkpoint = self.folder / f"{width}.checkpoint"
        found = train(ResNet10(width, self.seed), batches, chosen, checkpoint=checkpoint, threads=THREADS)
        return found.model.eval().requires_grad_(False)

    def run(self, name: str, case: Case) -> dict[str, Any]:
        """The artifacts and accuracies before and after."""
        module = self.trained(case.width)
        calibration = self.data.calibration()
        what = hashlib.blake2b(json.dumps(dict(case.candidate)).encode(), digest_size=4).hexdigest()
        clock = self.folder / f"{name}-{what}.seconds"
        frontier = fxpress.optimize(
            module,
            (calibration[0],),
            calibration=calibration,
            evaluate=self.data.validation(),
            train=self.data.train(clock),
            learning=config(1, self.seed, augmented=True),
            strategy=replace(case.strategy, first=(case.candidate,)),
            budget_seconds=1e9,
            max_trials=1,
            storage=self.folder / f"{name}-{what}.storage",
            seed=self.seed,
            num_threads=THREADS,
        )
        (point,) = frontier.tried
        if point.artifact is None or frontier.original.artifact is None or point.promised is None:
            raise RuntimeError(f"candidate of {name} must give a model, but it was refused: {point.refused}")
        artifacts = {"before": frontier.original.artifact, "after": point.artifact}
        return {
            side: {"artifact": str(path), "accuracy": judge(path, self.data.test()).value}
            for side, path in artifacts.items()
        } | {
            "promised": point.promised.to_json(),
            "training_seconds": [seconds_of(self.folder / f"{case.width}.seconds"), seconds_of(clock)],
        }


def interval(values: list[float]) -> dict[str, Any]:
    """Their mean and its 95% interval (Student's t; None for a single one)."""
    mean, half = float(np.mean(values)), None
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    ends = None if half is None else [mean - half, mean + half]
    return {"mean": mean, "interval": ends, "values": values}


def summary(entries: list[dict[str, Any]], footprints: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Over seeds: points of accuracy gained, how many times smaller and faster, and how promises were kept."""
    measured = [{side: footprints[entry[side]["artifact"]] for side in ("before", "after")} for entry in entries]
    off = [
        abs(entry["promised"]["latency"] / pair["after"]["latency"] - 1)
        for entry, pair in zip(entries, measured, strict=True)
    ]
    return {
        "accuracy before": interval([100 * entry["before"]["accuracy"] for entry in entries]),
        "accuracy after": interval([100 * entry["after"]["accuracy"] for entry in entries]),
        "points gained": interval([100 * (e["after"]["accuracy"] - e["before"]["accuracy"]) for e in entries]),
        "times smaller": interval([pair["before"]["size"] / pair["after"]["size"] for pair in measured]),
        "times faster": interval([pair["before"]["latency"] / pair["after"]["latency"] for pair in measured]),
        "promised latency within 10%": sum(x <= 0.1 for x in off) / len(off),
        "training seconds": [entry["training_seconds"] for entry in entries],
        "footprints": measured,
    }


def main(
    names: Annotated[str, typer.Option("--cases", help="of them, joined by commas")] = ",".join(CASES),
    seeds: Annotated[str, typer.Option(help="joined by commas")] = ",".join(map(str, Settings.seeds)),
    epochs: Annotated[int, typer.Option(min=1, help="of the nets to begin with")] = Settings.epochs,
    only_train: Annotated[bool, typer.Option(help="measure and write nothing yet")] = False,
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "search-strategies.json",
) -> None:
    """Train, apply, judge, then measure all artifacts in turns, write JSON. A killed run goes on where it was."""
    torch.set_num_threads(THREADS)
    settings = replace(Settings(), seeds=tuple(map(int, seeds.split(","))), epochs=epochs)
    root = cache_directory() / f"search-strategies-{epochs}"
    root.mkdir(parents=True, exist_ok=True)
    ledger, found = Ledger(root / "ledger.json"), dict[str, list[dict[str, Any]]]()
    for name in names.split(","):
        for seed in settings.seeds:
            case = CASES[name]
            key = f"{name}, seed {seed}, {sorted(case.candidate.items())}"
            runs = Seed(seed, settings, root / str(seed))
            entry = ledger.entry(key, lambda runs=runs, name=name, case=case: runs.run(name, case))
            print(name, seed, f"{entry['before']['accuracy']:.2%} -> {entry['after']['accuracy']:.2%}", flush=True)
            found.setdefault(name, []).append(entry)
    if only_train:
        return
    paths = {e[side]["artifact"] for entries in found.values() for e in entries for side in ("before", "after")}
    footprints = measure_together({path: Path(path) for path in sorted(paths)})
    cases = {
        name: {"candidate": dict(CASES[name].candidate), "width": CASES[name].width} | summary(entries, footprints)
        for name, entries in found.items()
    }
    write_json(output, document(settings, {"cases": cases}))
    for name, case in cases.items():
        gained = case["points gained"]
        print(
            f"{name}: {gained['mean']:+.2f} points {gained['interval']}, {case['times smaller']['mean']:.1f}x smaller, "
            f"{case['times faster']['mean']:.1f}x faster"
        )
    print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(main)
