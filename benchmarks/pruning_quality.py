"""What pruning costs in accuracy, and what recovery gives back: python benchmarks/pruning_quality.py --output FILE.json

The classifier is a VGG in small (`training.SmallVgg`): its layers are as uniform as those of the networks that papers
prune, and half of its parameters are in a hidden layer behind the convolutions. Of every group the same share of units
goes, those of least norm; 39% and 57.5% of the units are 60% and 80% of the parameters. Least squares see 1,000 images.
Training begins with their result and has the unpruned classifier for a teacher (Hinton et al., arXiv:1503.02531), which
says what images are like beyond their labels, and of images moved a pixel too: the ones that it learnt from are all
known by then. So neither recovery sees labels. How it learns was chosen on a few classifiers of the first and the last
fold; shares and the rest were not tuned. Every way begins with the same trained classifiers and is judged on digits
that they were not trained with.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import fxpress
import machine
import numpy as np
import torch
import typer
from fxpress.learn import TrainConfig
from fxpress.learn.distillation import LogitDistillation
from fxpress.learn.images import RandomCrop
from fxpress.passes.pruning.config import PruneConfig
from models import SEED
from quality import quiet
from quality_tasks import paired
from run import HERE
from torch import Tensor
from training import BATCH, Trained, trained

FORMAT = 1
NET = "vgg"
UNPRUNED, LIGHT, HEAVY = "unpruned", "60%", "80%"
TEMPERATURE = 3.0


@dataclass(frozen=True)
class Settings:
    """How much of everything: images in all, ratios of units, epochs of the training that goes on."""

    folds: int = 5
    seeds: int = 5
    calibration: int = 1000  # images without labels, for least squares
    ranges: int = 200  # of them for the ranges of int8
    light: float = 0.39
    heavy: float = 0.575
    epochs: int = 16
    rate: float = 3e-3
    moved: int = 1  # pixels that images are moved by at most while learning


@dataclass(frozen=True)
class Found:
    """A classifier as a Program, and of which other of the same case it is the successor."""

    name: str
    before: str
    program: fxpress.Program


def ways(case: Trained, settings: Settings) -> Iterator[Found]:
    """Every pruned classifier of a trained one; each says what it is compared with."""
    torch.manual_seed(SEED)
    order = torch.randperm(len(case.images))[: settings.calibration]
    data = list(case.images[order].split(BATCH))
    original = fxpress.capture(case.module, (data[0],))
    yield Found(UNPRUNED, UNPRUNED, original)
    yield Found("unpruned, int8", UNPRUNED, _int8(original, data, settings))
    for share, ratio in ((LIGHT, settings.light), (HEAVY, settings.heavy)):
        config = PruneConfig(ratio=ratio, multiple=1)
        yield Found(f"{share} gone", UNPRUNED, _pruned(original, config, None))
        fitted = _pruned(original, replace(config, recovery="least-squares"), data)
        recovered = {"least squares": fitted} | ({"trained": _taught(fitted, case, settings)} if share == HEAVY else {})
        for name, program in recovered.items():
            yield Found(f"{share} gone, {name}", UNPRUNED, program)
            yield Found(f"{share} gone, {name}, int8", f"{share} gone, {name}", _int8(program, data, settings))


def _pruned(original: fxpress.Program, config: PruneConfig, data: Sequence[Tensor] | None) -> fxpress.Program:
    return fxpress.prune(original, config, calibration=data, progress=lambda stage: None)


def _taught(program: fxpress.Program, case: Trained, settings: Settings) -> fxpress.Program:
    """The Program after learning what the unpruned classifier says about the images that this one was trained with."""
    config = TrainConfig(
        epochs=settings.epochs,
        learning_rate=settings.rate,
        weight_decay=0.0,
        distill=(LogitDistillation(temperature=TEMPERATURE),),
        augment=(RandomCrop(padding=settings.moved),),
        seed=SEED,
    )
    images = _Unlabelled(case.images)
    return fxpress.learn.train(program, images, config, teacher=case.module, progress=lambda stage: None).model


@dataclass(frozen=True)
class _Unlabelled:
    """Batches of images without targets, in another order each time."""

    images: Tensor

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        for batch in torch.randperm(len(self.images)).split(BATCH):
            yield self.images[batch], None

    def __len__(self) -> int:
        return -(-len(self.images) // BATCH)


def _int8(program: fxpress.Program, data: Sequence[Tensor], settings: Settings) -> fxpress.Program:
    items = data[: settings.ranges // BATCH]
    return fxpress.quantize(program, calibration=items, profitable="off", progress=lambda stage: None)


def accuracy(program: fxpress.Program, case: Trained) -> float:
    """In percent, of the digits that were left out of training."""
    right = 0
    for images, labels in zip(case.test_images.split(BATCH), case.test_labels.split(BATCH), strict=True):
        right += int((program.run(images).argmax(1) == labels).sum())
    return 100 * right / len(case.test_labels)


def parameters(program: fxpress.Program) -> int:
    """How many numbers the model's constants are, statistics of batch norms included."""
    return sum(constant.numel() for constant in program.constants.values())


def compare(settings: Settings, progress: Any = print) -> dict[str, Any]:
    """The mean accuracy of every way, and its loss in percentage points over folds and seeds."""
    scores: dict[str, list[float]] = {}
    before: dict[str, str] = {}
    removed: dict[str, list[float]] = {}
    for i, case in enumerate(trained(NET, settings.folds, settings.seeds)):
        whole = 0
        for found in ways(case, settings):
            count = parameters(found.program)
            whole = whole or count
            scores.setdefault(found.name, []).append(accuracy(found.program, case))
            removed.setdefault(found.name, []).append(1 - count / whole)
            before[found.name] = found.before
        progress(
            f"{i + 1}/{settings.folds * settings.seeds}: " + ", ".join(f"{n} {s[-1]:.1f}" for n, s in scores.items())
        )
    entries = {}
    for name, found in scores.items():
        entries[name] = {"accuracy": float(np.mean(found)), "compared with": before[name]}
        if "int8" not in name:
            entries[name]["parameters removed"] = min(removed[name])
        if name != UNPRUNED:
            entries[name] |= paired(scores[before[name]], found)
    return {"runs": len(scores[UNPRUNED]), "ways": entries}


def main(
    folds: Annotated[int, typer.Option(min=1, max=5, help="fifths of the digits to leave out in turn")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="classifiers trained for each fold")] = Settings.seeds,
    epochs: Annotated[int, typer.Option(min=1, help="of the training that goes on")] = Settings.epochs,
    output: Annotated[Path, typer.Option(help="the JSON file")] = HERE / "results" / "pruning-quality.json",
) -> None:
    """Prune, recover and quantise trained classifiers, compare accuracies in pairs, write JSON."""
    quiet()
    torch.set_num_threads(1)
    settings = Settings(folds, seeds, epochs=epochs)
    found = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": asdict(settings),
    }
    found |= compare(settings)
    output.write_text(json.dumps(found, indent=1) + "\n")
    for name, entry in found["ways"].items():
        drop = (
            "" if name == UNPRUNED else f"{entry['drop']:+.2f} points, at most {entry['upper'] or entry['drop']:+.2f}"
        )
        print(f"{name:32s} {entry['accuracy']:6.2f}%  {drop}")
    print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(main)
