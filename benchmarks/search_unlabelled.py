"""Searching with calibration inputs alone: python benchmarks/search_unlabelled.py --models efficientnet-lite0,minilm-b1

No labels and no training: quality is how well outputs agree with the original's on inputs that nothing was calibrated
with. What is found is checked on a third set of inputs, and timed once more, in turns with PyTorch's eager mode.

    {"format": 1, "date": ..., "machine": {...}, "versions": {...}, "settings": {...},
     "models": {<model>: {"seconds", "tried", "refused", "promises_kept", "eager", "points": [...]}}}

A point holds what was done, its `quality` in the search and on the third set (`checked`: the mean cosine, and `top-1`
for classifiers), `size` in bytes, `latency` of eager and ours in seconds, and both as ratios to eager's.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import fxpress
import machine
import samples
import torch
import typer
from fxpress.runtime import load
from fxpress.search.frontier import Frontier, Point
from fxpress.search.quality import Agreement
from measure import Call, interleave
from models import MODELS
from peers import aligned
from pruning import write
from quality import quiet
from rich.console import Console
from rich.table import Table
from run import HERE, choose, duration
from torch import nn

FORMAT = 1
PROMISED = 0.1
"""A promised latency is kept when the measured one is at most this share away."""

Args = tuple[Any, ...]


@dataclass(frozen=True)
class Settings:
    """How much of everything: inputs of each kind, and when to stop."""

    calibration: int = 64
    judged: int = 128
    checked: int = 128
    seconds: float = 1500
    trials: int = 40
    threads: int = 2
    rounds: int = 7


@dataclass(frozen=True)
class Case:
    """A model and its inputs: for calibration, for the search's quality, and for the check of what it found."""

    module: nn.Module
    args: Args
    calibration: Sequence[Args]
    judged: Sequence[Args]
    checked: Sequence[Args]

    @classmethod
    def of(cls, name: str, settings: Settings) -> Case:
        module, args, _ = MODELS[name].build()
        calibration = samples.inputs(MODELS[name], "calibration", settings.calibration)
        others = samples.inputs(MODELS[name], "evaluation", settings.judged + settings.checked)
        return cls(module, args, calibration, others[: settings.judged], others[settings.judged :])

    @torch.inference_mode()
    def original(self, *inputs: torch.Tensor) -> Any:
        return self.module(*inputs)

    def weight_bytes(self) -> int:
        """What PyTorch keeps of the model."""
        return sum(tensor.nbytes for tensor in self.module.state_dict().values())


def search(case: Case, settings: Settings, storage: Path) -> Frontier:
    """The frontier that `fxpress.optimize` finds from float32 to the smallest."""
    return fxpress.optimize(
        case.module,
        case.args,
        calibration=case.calibration,
        evaluate=Agreement(case.original, case.judged),
        objectives=("quality", "latency", "size"),
        budget_seconds=settings.seconds,
        max_trials=settings.trials,
        num_threads=settings.threads,
        storage=storage,
    )


def measured(case: Case, points: Sequence[Point], settings: Settings, classifier: bool) -> list[dict[str, Any]]:
    """Every point checked on inputs that the search did not see, and timed in turns with eager mode."""
    args = tuple(aligned(value) for value in case.args)
    artifacts = [load(point.artifact, num_threads=settings.threads) for point in points if point.artifact is not None]
    calls: dict[str, Call] = {"eager": lambda: case.original(*case.args)}
    for i, artifact in enumerate(artifacts):
        calls[str(i)] = lambda artifact=artifact: artifact(*args)
    torch.set_num_threads(settings.threads)
    times = interleave(calls, rounds=settings.rounds, threads=settings.threads).latencies
    kinds = ("cosine", "top-1") if classifier else ("cosine",)
    wanted = {kind: Agreement(case.original, case.checked, kind) for kind in kinds}
    eager, bytes_of_eager = times["eager"], case.weight_bytes()
    rows = [{"what": "eager", "size": bytes_of_eager, "latency": asdict(eager)}]
    for i, (point, artifact) in enumerate(zip(points, artifacts, strict=True)):
        assert point.quality is not None
        assert point.footprint is not None
        rows.append(
            {
                "what": point.describe(),
                "number": point.number,
                "quality": point.quality.value,
                "checked": {kind: _mean(agreement(artifact)) for kind, agreement in wanted.items()},
                "size": point.footprint.size,
                "latency": asdict(times[str(i)]),
                "faster": _ratio(eager.rounds, times[str(i)].rounds),
                "smaller": bytes_of_eager / point.footprint.size,
            }
        )
    return rows


def _mean(scores: Any) -> float:
    return float(scores.summary(scores.rows))


def _ratio(eager: Sequence[float], ours: Sequence[float]) -> float:
    ratios = sorted(a / b for a, b in zip(eager, ours, strict=True))
    return ratios[len(ratios) // 2]


def promises_kept(points: Sequence[Point]) -> float | None:
    """The share of points whose latency was as promised before anything was trained; None for no point."""
    both = [(p.footprint.latency, p.promised.latency) for p in points if p.footprint and p.promised and p.number]
    return sum(abs(found / said - 1) <= PROMISED for found, said in both) / len(both) if both else None


def examine(name: str, settings: Settings, folder: Path, show: Callable[[Table], None]) -> dict[str, Any]:
    """Search one model; what was found, measured."""
    case = Case.of(name, settings)
    begin = time.monotonic()
    frontier = search(case, settings, folder / name / "search")
    seconds = time.monotonic() - begin
    frontier.save(folder / name)
    frontier.report(folder / name / "report.html", name)
    rows = measured(case, frontier.points, settings, classifier=MODELS[name].suite == "vision")
    show(table(name, rows))
    return {
        "seconds": seconds,
        "tried": len(frontier.tried),
        "refused": [point.refused for point in frontier.tried if point.refused],
        "promises_kept": promises_kept(frontier.tried),
        "points": rows,
    }


def table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """One row a point, eager mode first."""
    view = Table(title=name)
    for title in ("agreement", "checked", "top-1", "latency", "faster", "size", "smaller", "what was done"):
        view.add_column(title, justify="left" if title == "what was done" else "right")
    for row in rows:
        checked = row.get("checked", {})
        view.add_row(
            _number(row.get("quality")),
            _number(checked.get("cosine")),
            _number(checked.get("top-1")),
            duration(row["latency"]["median"]),
            f"{row['faster']:.2f}x" if "faster" in row else "",
            f"{row['size'] / 1e6:.2f} MB",
            f"{row['smaller']:.2f}x" if "smaller" in row else "",
            row["what"],
        )
    return view


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def main(
    models: Annotated[str, typer.Option(help="names, separated by commas")] = "efficientnet-lite0,minilm-b1",
    seconds: Annotated[float, typer.Option(min=1, help="of each search")] = Settings.seconds,
    trials: Annotated[int, typer.Option(min=1, help="candidates at most")] = Settings.trials,
    threads: Annotated[int, typer.Option(min=1)] = Settings.threads,
    folder: Annotated[Path, typer.Option(help="searches, artifacts and pages")] = Path("build/search-unlabelled"),
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "search-unlabelled.json",
) -> None:
    """Search models without labels, check and time what was found, write JSON."""
    quiet()
    settings = Settings(seconds=seconds, trials=trials, threads=threads)
    found: dict[str, Any] = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": asdict(settings),
        "models": {},
    }
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name in choose(models, list(MODELS), "models"):
        found["models"][name] = examine(name, settings, folder, console.print)
        write(found, output)
    console.print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(main)
