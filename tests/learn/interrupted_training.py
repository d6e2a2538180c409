"""A training with every kind of state, which can be ended at any point: for tests, and as a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from fxpress.learn import CutMix, FeatureDistillation, LogitDistillation, Noise, TrainConfig, Trained, train
from fxpress.search.quality import Accuracy, Scores
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CONFIG = TrainConfig(
    epochs=4,
    learning_rate=0.02,
    ema=0.8,
    clip_norm=1.0,
    augment=(CutMix(), Noise()),
    distill=(LogitDistillation(), FeatureDistillation(layers={"0": "0"})),
    patience=2,
)


def net(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * width, 2))


def run(path: Path | None, progress=None, config: TrainConfig = CONFIG) -> Trained[nn.Sequential]:
    """The same training in every call, from `path` on if there is anything."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 1, 6, 6, generator=generator)
    y = (x[:, 0, :3].sum((1, 2)) > x[:, 0, 3:].sum((1, 2))).long()
    loader = DataLoader(TensorDataset(x, y), batch_size=12, shuffle=True, generator=generator)
    student, teacher = net(3, 0), net(5, 1)
    accuracy = Accuracy([(x, y)])

    def evaluate(f):  # falls, so that the first is best and patience ends it after the third
        return Scores(-accuracy(f).rows)

    return train(
        student, loader, config, teacher=teacher, evaluate=evaluate,
        checkpoint=path, checkpoint_seconds=0.0, progress=progress or (lambda stage: None),
    )  # fmt: skip


def die_at(stage: str) -> None:
    """Be killed in the middle of writing the first checkpoint after `stage`, when its file is not yet in place."""

    def die(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(found: str) -> None:
        if found.startswith(stage):
            os.replace = die

    run(Path(sys.argv[1]), watch)


if __name__ == "__main__":
    torch.set_num_threads(1)
    die_at(sys.argv[2])
