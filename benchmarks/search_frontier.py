"""Our frontier against the survey's grid: python benchmarks/search_frontier.py --output FILE.json

`fxpress.optimize` begins with the grid's widest net, trained with augmentation, and may train as many seconds as the
whole grid took, those of that net included; a trial that ends later does not count. It chooses by other digits than
both are judged by. The grid's models are all judged and its best ones count: chance in the judgement favours the grid.

What is compared is the hypervolume, quality against size and quality against latency, in three boxes that were fixed
before anything was searched:
- "own": as `Frontier.hypervolume` has it by default, from quality 0 and the costs of the widest float32 net, in linear
  scale. Small nets cost a hundredth of that and are right nine times in ten: nothing can be 15% better.
- "grid, linear": from the grid's worst quality, otherwise the same.
- "grid, log": costs in the logarithmic scale in which widths are steps, from those of the widest float32 net down to
  the lowest of either side. This one tells cheap models apart, and is what is quoted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import fxpress
import torch
import typer
from cluttered_training import THREADS, Ledger, config, judge, write_json
from fxpress.search.frontier import Frontier, volume
from fxpress.search.phases import Strategy
from fxpress.search.ranges import Choice, Range
from fxpress.search.strategies import IMPROVE, LEARN, PRUNE, QUANTIZE
from onnx_files import cache_directory
from survey_grid import AUGMENTED, HERE, Grid, document, kept_grid, measure_together
from survey_grid import Settings as GridSettings

COSTS = ("size", "latency")
OURS, GRID = "ours", "grid"
RATES = Range(1e-3, 5e-3, log=True)
Model = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How the search goes: epochs of the first training that all share, and of each smaller net's."""

    learn_epochs: int = 18
    improve_epochs: int = 18
    ratios: tuple[float, ...] = (0.75, 0.5, 0.85, 0.7, 0.9)
    most_trials: int = 40


def strategy(settings: Settings) -> Strategy:
    """The net learns on, loses channels, learns from what it was, and is quantised."""
    phases = (
        replace(LEARN, space={"epochs": Choice((0, settings.learn_epochs)), "learning_rate": RATES}),
        replace(PRUNE, space={**PRUNE.space, "ratio": Range(0.0, 0.9, step=0.05)}),
        replace(
            IMPROVE, space={**IMPROVE.space, "epochs": Choice((0, settings.improve_epochs)), "learning_rate": RATES}
        ),
        replace(QUANTIZE, space={"config": Choice(("none", "int8"))}),
    )
    learned = {"learn.epochs": settings.learn_epochs, "learn.learning_rate": 2e-3, "quantize.config": "int8"}
    improved = {"improve.epochs": settings.improve_epochs, "improve.learning_rate": 3e-3, "improve.temperature": 4.0}
    first = tuple({**learned, **improved, "prune.ratio": ratio} for ratio in settings.ratios)
    return Strategy("learn, shrink and improve", phases, (learned, *first))


class Search:
    """The search in `folder`, where what was made before is used again."""

    def __init__(self, settings: Settings, grid: Grid, folder: Path) -> None:
        self.settings, self.grid, self.folder = settings, grid, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(folder / "ledger.json")

    def run(self, budget: float) -> tuple[Frontier, float]:
        """Trials, until they have trained for `budget` seconds; the frontier of those within, and their seconds."""
        width = self.grid.settings.widths[-1]
        module = self.grid.trained(width, AUGMENTED)
        batches = self.grid.data.train(self.folder / "search.seconds")
        before = self.grid.seconds_of(width, AUGMENTED)
        calibration = self.grid.data.calibration()
        for number in range(max(len(self.ledger.entries), 1), self.settings.most_trials + 1):
            frontier = fxpress.optimize(
                module,
                (calibration[0],),
                calibration=calibration,
                evaluate=self.grid.data.validation(),
                train=batches,
                learning=config(self.settings.improve_epochs, 0, augmented=True),
                strategy=strategy(self.settings),
                budget_seconds=1e9,
                max_trials=number,
                storage=self.folder / "storage",
                num_threads=THREADS,
            )
            spent = self.ledger.entry(str(number), lambda: before + batches.seconds())
            print(f"trained {spent:.0f} of {budget:.0f} s\n{frontier.text()}", flush=True)
            if spent >= budget or len(frontier.tried) < number:
                break
        after = {int(name): seconds for name, seconds in self.ledger.entries.items()}
        within = [point for i, point in enumerate(frontier.tried) if after.get(i + 1, math.inf) <= budget]
        return replace(frontier, tried=within), max((s for s in after.values() if s <= budget), default=before)


def corners(models: Sequence[Model], cost: str, worst: Model, best: Model, scale: str) -> list[tuple[float, float]]:
    """What each model has of the way from `worst` to `best`, quality and cost; those beyond `worst` are left out.

    In linear scale the best cost is 0.
    """
    found = []
    for model in models:
        gained = (model["accuracy"] - worst["accuracy"]) / (1 - worst["accuracy"])
        if scale == "linear":
            saved = 1 - model[cost] / worst[cost]
        else:
            saved = math.log(worst[cost] / model[cost]) / math.log(worst[cost] / best[cost])
        if gained > 0 and saved > 0:
            found.append((gained, saved))
    return found


def compare(sides: dict[str, list[Model]], widest: Model) -> dict[str, Any]:
    """For each box and cost the hypervolume of both sides, and by how many percent ours is larger."""
    everything = [model for models in sides.values() for model in models]
    lowest = min(model["accuracy"] for model in sides[GRID])
    boxes = {"own": (0.0, "linear"), "grid, linear": (lowest, "linear"), "grid, log": (lowest, "log")}
    found: dict[str, Any] = {}
    for name, (accuracy, scale) in boxes.items():
        for cost in COSTS:
            worst = {"accuracy": accuracy, cost: widest[cost]}
            best = {cost: min(model[cost] for model in everything)}
            volumes = {side: volume(corners(models, cost, worst, best, scale)) for side, models in sides.items()}
            gain = 100 * (volumes[OURS] / volumes[GRID] - 1)
            found.setdefault(name, {})[cost] = volumes | {"worst accuracy": accuracy, "gain in percent": gain}
    return found


def plot(sides: dict[str, list[Model]], path: Path) -> None:
    """Error against size and against latency, both sides."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    labels = {"size": ("size of the artifact, KB", 1e-3), "latency": ("latency, ms", 1e3)}
    for axes, cost in zip(figure.subplots(1, 2, sharey=True), COSTS, strict=True):
        text, unit = labels[cost]
        for side, colour in ((GRID, "#66788a"), (OURS, "#d1495b")):
            models = sorted(sides[side], key=lambda model: model[cost])
            axes.scatter([m[cost] * unit for m in models], [100 * m["accuracy"] for m in models], color=colour, s=14)
            front = [m for i, m in enumerate(models) if all(m["accuracy"] > other["accuracy"] for other in models[:i])]
            dearest = max(m[cost] for found in sides.values() for m in found)
            axes.step(
                [*(m[cost] * unit for m in front), dearest * unit],
                [100 * m["accuracy"] for m in (*front, front[-1])],
                where="post",
                color=colour,
                label={GRID: "the survey's grid", OURS: "fxpress.optimize"}[side],
            )
        axes.set_xscale("log")
        axes.set_xlabel(text)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy on unseen digits, %")
    figure.axes[0].legend()
    figure.savefig(path, dpi=160)


def main(
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "search-frontier.json",
    only_search: Annotated[bool, typer.Option(help="measure and write nothing yet")] = False,
) -> None:
    """Search, judge both sides, measure all artifacts in turns, write JSON and PNG."""
    torch.set_num_threads(THREADS)
    settings, grid = Settings(), kept_grid(GridSettings())
    models = grid.run(progress=lambda line: None)
    budget = grid.seconds()
    frontier, spent = Search(settings, grid, cache_directory() / "search-frontier").run(budget)
    if only_search:
        return
    paths = {name: grid.artifact(name) for name in models}
    points = {f"point {point.number}": point for point in frontier.points if point is not frontier.original}
    paths |= {name: point.artifact for name, point in points.items() if point.artifact is not None}
    measured = measure_together(paths)
    sides: dict[str, list[Model]] = {GRID: [], OURS: []}
    for name, entry in models.items():
        sides[GRID].append({"name": name, "accuracy": entry["accuracy"][0]} | measured[name])
    for name, point in points.items():
        quality = judge(paths[name], grid.data.test())
        promised = None if point.promised is None else point.promised.to_json()
        sides[OURS].append(
            {"name": name, "done": point.describe(), "accuracy": quality.value, "interval": [quality.low, quality.high]}
            | {"validation": point.value(frontier.objectives[0]), "promised": promised}
            | measured[name]
        )
    widest = next(model for model in sides[GRID] if model["name"].startswith(f"{grid.settings.widths[-1]} {AUGMENTED}"))
    off = [abs(m["promised"]["latency"] / m["latency"] - 1) for m in sides[OURS] if m["promised"]]
    found = {
        "training_seconds": {GRID: budget, OURS: spent},
        "hypervolume": compare(sides, widest),
        "promised latency within 10%": sum(x <= 0.1 for x in off) / max(len(off), 1),
        "tried": len(frontier.tried),
        "models": sides,
    }
    write_json(output, document(settings, found))
    plot(sides, output.with_suffix(".png"))
    for box, costs in found["hypervolume"].items():
        print(box, {cost: f"{value['gain in percent']:+.1f}%" for cost, value in costs.items()})
    print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(main)
