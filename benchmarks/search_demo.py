"""A search of a minute or two on a small net, and what it found: a page, and the picture of docs/optimizing.md.

    python benchmarks/search_demo.py [FOLDER] [PICTURE.png]

The net reads the digits of scikit-learn, 8 x 8 pixels; it is chosen by one half of those that it was not trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fxpress
import torch
from fxpress.learn import TrainConfig, train
from fxpress.search.quality import Accuracy
from sklearn.datasets import load_digits
from torch import nn

TRAINED, JUDGED = slice(0, 1000), slice(1000, 1797)
BATCH = 50


def main(folder: Path, picture: Path) -> None:
    """Train the net, search, and write the frontier, its page and its picture."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    batches = list(zip(images[TRAINED].split(BATCH), labels[TRAINED].split(BATCH), strict=True))
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip
    trained = train(net, batches, TrainConfig(epochs=15, learning_rate=2e-3)).model.eval()
    frontier = fxpress.optimize(
        trained,
        (images[:1],),
        calibration=[image[None] for image in images[:32]],
        evaluate=Accuracy([(images[JUDGED], labels[JUDGED])]),
        train=batches,
        max_trials=16,
        budget_seconds=300,
        storage=folder / "search",
    )
    frontier.save(folder)
    frontier.report(folder / "report.html", "A small net that reads digits")
    frontier.plot(picture)
    print(frontier.text())


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given, *(Path("frontier"), Path("docs/frontier.png"))[len(given) :])
