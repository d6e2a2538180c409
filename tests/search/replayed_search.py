"""Run by test_search_replay.py: replay the point of a saved Frontier in a process of its own, and print its members.

The model and the data are made here, for the search too.
"""

from __future__ import annotations

import json
import sys

import torch
from fxpress.search import replay
from fxpress.search.frontier import Frontier
from torch import nn


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 4)).eval()


def inputs() -> torch.Tensor:
    return torch.randn(32, 16, generator=torch.Generator().manual_seed(1))


def batches() -> torch.utils.data.DataLoader:
    """Shuffled by a generator, whose state must not matter."""
    data = torch.utils.data.TensorDataset(inputs(), inputs().sum(1).gt(0).long())
    return torch.utils.data.DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(2))


def given(x: torch.Tensor) -> dict:
    """What the search and the replay are both given."""
    return {"calibration": [x[:8], x[8:16]], "train": batches()}


if __name__ == "__main__":
    frontier = Frontier.load_from(sys.argv[1])
    point = next(point for point in frontier.points if point.number == int(sys.argv[2]))
    artifact = replay(point.recipe, model(), (inputs()[:8],), **given(inputs()))
    print(json.dumps({name: member["sha256"] for name, member in artifact.manifest["members"].items()}))
