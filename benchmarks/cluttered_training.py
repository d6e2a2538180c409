"""How classifiers of cluttered digits are trained and judged, and a stopwatch for what training takes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cluttered_digits
import torch
from fxpress.learn import Noise, RandomCrop, TrainConfig
from fxpress.runtime import load
from fxpress.search.any_batch import AnyBatch
from fxpress.search.quality import Accuracy, Quality
from torch import Tensor

BATCH = 64
AUGMENTATION = (RandomCrop(padding=3), Noise(deviation=0.1))
THREADS = 1


class Shuffled:
    """Batches in an order drawn anew for each epoch.

    What passes between them, in seconds of this process's CPU, goes to the file `clock`, a line an epoch: on a busy
    machine trainings are compared by that, and the parts of one that was killed add up.
    """

    def __init__(self, images: Tensor, labels: Tensor, clock: Path) -> None:
        self.images, self.labels, self.clock = images, labels, clock

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        begin = time.process_time()
        try:
            for chosen in torch.randperm(len(self.images)).split(BATCH)[: len(self)]:
                yield self.images[chosen], self.labels[chosen]
        finally:
            with self.clock.open("a") as file:
                file.write(f"{time.process_time() - begin}\n")

    def seconds(self) -> float:
        """What all trainings with this clock took."""
        return seconds_of(self.clock)


def seconds_of(clock: Path) -> float:
    """What the trainings took that wrote this file."""
    return sum(map(float, clock.read_text().split())) if clock.exists() else 0.0


@dataclass(frozen=True)
class Data:
    """The parts of the set, as the scripts need them. `count` leaves most of it out, for trials of the scripts."""

    count: int | None = None

    def train(self, clock: Path) -> Shuffled:
        images, labels = self._part("train", 1)
        return Shuffled(images, labels, clock)

    def calibration(self) -> list[Tensor]:
        """Single images that are trained with."""
        return list(self._part("train", 1)[0][:128].split(1))

    def validation(self) -> Accuracy:
        """By which a search chooses."""
        return self._accuracy("validation", 2)

    def test(self) -> Accuracy:
        """By which what was chosen is judged."""
        return self._accuracy("test", 3)

    def _accuracy(self, part: str, variants: int) -> Accuracy:
        images, labels = self._part(part, variants)
        return Accuracy(list(zip(images.split(500), labels.split(500), strict=True)))

    def _part(self, part: str, variants: int) -> tuple[Tensor, Tensor]:
        images, labels = cluttered_digits.images(part, variants=variants)
        return images[: self.count], labels[: self.count]


def config(epochs: int, seed: int, *, augmented: bool, **changes: Any) -> TrainConfig:
    """How every classifier here is trained, but for what it is told to do otherwise."""
    return TrainConfig(
        epochs=epochs,
        learning_rate=3e-3,
        weight_decay=1e-2,
        augment=AUGMENTATION if augmented else (),
        seed=seed,
        **changes,
    )


def judge(artifact: Path, accuracy: Accuracy) -> Quality:
    """The accuracy of an artifact, as it runs."""
    with load(artifact, num_threads=THREADS) as loaded:
        return Quality.measure(accuracy, AnyBatch(loaded))


class Ledger:
    """A JSON file of results by key: what is in it is not done again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def entry(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept under the key, made and kept now where there is nothing."""
        if key not in self.entries:
            self.entries[key] = make()
            write_json(self._path, self.entries)
        return self.entries[key]


def write_json(path: Path, value: Any) -> None:
    """The whole file or nothing."""
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".unfinished")
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(value, indent=1) + "\n")
    os.chmod(unfinished, 0o644)
    os.replace(unfinished, path)
