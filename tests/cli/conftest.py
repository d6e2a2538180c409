"""A small compiled model, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.cli.commands import app
from typer.testing import CliRunner, Result

MODEL = """
import torch
from torch import nn

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.Softmax(-1)).eval()

def with_inputs():
    return make_model(), (torch.zeros(3, 8),)

def number():
    return 3

class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

branches = Branches()

class Digamma(nn.Module):
    def forward(self, x):
        return torch.digamma(x)

digamma = Digamma()
"""


class TwoParts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.second = torch.nn.Linear(8, 5)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.first(image).relu().mean((2, 3))
        return {"scores": self.second(features) * scale, "features": features}


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A Python file with functions that make models."""
    path = tmp_path / "some_model.py"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="session")
def two_parts() -> TwoParts:
    torch.manual_seed(0)
    return TwoParts().eval()


@pytest.fixture(scope="session")
def artifact_file(tmp_path_factory: pytest.TempPathFactory, two_parts: TwoParts) -> Path:
    """`two_parts`, compiled for images of 12 x 12."""
    path = tmp_path_factory.mktemp("artifact") / "two.fxp"
    fxpress.compile(two_parts, (torch.randn(1, 3, 12, 12), torch.ones(1))).save(path)
    return path


@pytest.fixture
def fxpress_command() -> Callable[..., Result]:
    """Run the command line: `fxpress_command("run", path)`."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run
