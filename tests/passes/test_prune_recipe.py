"""Recipes: what pruning chose, as JSON, gives the same Program again, and says where a model does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.pruning.config import PruneConfig
from torch import Tensor, nn

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(1, 5)]


class Residual(nn.Module):
    """A convolution, two residual branches, and a linear layer: [n, 3, 8, 8] -> [n, 5]."""

    def __init__(self, width: int = 16, outputs: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 12, 1), nn.ReLU(), nn.Conv2d(12, width, 1)) for _ in range(2)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x.mean((2, 3)))


def model(width: int = 16, outputs: int = 5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Residual(width, outputs).eval()


def same(first: fxpress.Program, second: fxpress.Program) -> bool:
    return first.text() == second.text() and all(
        torch.equal(first.constants[name], second.constants[name]) for name in first.constants
    )


@pytest.mark.parametrize(
    "config",
    [
        PruneConfig(ratio=0.5, blocks=0.5, multiple=1),
        PruneConfig(ratio=0.6, schedule="cubic", steps=3, ranking="global", multiple=1, importance="taylor"),
        PruneConfig(ratio=0.5, recovery="least-squares", multiple=1),
        PruneConfig(pattern="2:4"),
        PruneConfig(pattern="2:4", reconstruct=True),
        pytest.param(
            PruneConfig(ratio=0.7, pattern="elements", schedule="iterative", steps=2, recovery="least-squares"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_replaying_gives_the_same_program(config, tmp_path):
    pruned = fxpress.prune(model(), config, args=(X,), calibration=DATA)
    pruned.save(tmp_path / "pruned.program")  # the history, and with it the recipe, stays with a Program
    fxpress.Recipe.of(fxpress.Program.load(tmp_path / "pruned.program")).save(tmp_path / "recipe.json")
    recipe = fxpress.Recipe.load(tmp_path / "recipe.json")
    assert recipe == fxpress.Recipe.of(pruned)
    again = recipe.replay(model(), args=(X,), calibration=DATA if recipe.needs_data else None)
    assert again.text() == pruned.text()
    for name, constant in pruned.constants.items():
        if recipe.needs_data:
            torch.testing.assert_close(again.constants[name], constant)
        else:
            assert torch.equal(again.constants[name], constant)
    assert fxpress.Recipe.of(again) == recipe


def test_a_program_that_was_pruned_twice_is_pruned_twice_again():
    once = fxpress.prune(model(), PruneConfig(ratio=0.25, multiple=1), args=(X,))
    config = PruneConfig(ratio=0.5, multiple=1, recovery="least-squares")
    twice = fxpress.prune(once, config, calibration=DATA)
    assert same(fxpress.Recipe.of(twice).replay(model(), args=(X,), calibration=DATA), twice)


def test_other_weights_batches_and_resolutions_fit():
    recipe = fxpress.Recipe.of(fxpress.prune(model(), PruneConfig(ratio=0.5, multiple=1), args=(X,)))
    other = recipe.replay(model(seed=1), args=(torch.randn(1, 3, 16, 16),))
    assert [x.shape[0] for name, x in other.constants.items() if x.dim() > 1] == [8, 6, 8, 6, 8, 5]


def test_training_is_done_again_by_the_caller():
    seen = []

    def train(program: fxpress.Program, step: int) -> fxpress.Program:
        seen.append(step)
        module = fxpress.trainable(program)
        module(X).square().sum().backward()
        torch.optim.SGD(module.parameters(), 1e-3).step()
        return module.convert()

    config = PruneConfig(ratio=0.5, schedule="iterative", steps=2, multiple=1)
    pruned = fxpress.prune(model(), config, args=(X,), recover=train)
    recipe = fxpress.Recipe.of(pruned)
    assert same(recipe.replay(model(), args=(X,), recover=train), pruned)
    assert seen == [1, 2, 1, 2]
    with pytest.raises(
        InvalidInput, match=r"^recover must be given for a recipe with training, which it does not hold"
    ):
        recipe.replay(model(), args=(X,))


def test_models_that_do_not_fit_are_refused():
    units = fxpress.Recipe.of(fxpress.prune(model(), PruneConfig(ratio=0.5, multiple=1), args=(X,)))
    with pytest.raises(
        InvalidInput,
        match=r"^model must have 16 units in the group conv2d for this recipe, but it has 32; replay it on",
    ):
        units.replay(model(32), args=(X,))
    with pytest.raises(
        InvalidInput, match=r"^model must have a group conv2d of 16 units for this recipe, but there is"
    ):
        units.replay(nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Linear(5, 5)), args=(X,))
    zeros = fxpress.Recipe.of(fxpress.prune(model(), PruneConfig(pattern="2:4"), args=(X,)))
    with pytest.raises(
        InvalidInput, match=r"^model must have the shape \[16, 3, 3, 3\] for %first_weight for this recipe, but it has"
    ):
        zeros.replay(model(32), args=(X,))
    with pytest.raises(InvalidInput, match=r"^model must have a constant %first_weight of the shape \[16, 3, 3, 3\]"):
        zeros.replay(nn.Conv2d(3, 2, 1), args=(X,))
    blocks = fxpress.Recipe.of(fxpress.prune(model(), PruneConfig(ratio=0.0, blocks=0.5, multiple=1), args=(X,)))
    with pytest.raises(InvalidInput, match=r"^model must have a residual sum %add(_1)?, x \+ f\(x\) for this recipe"):
        blocks.replay(nn.Conv2d(3, 2, 1), args=(X,))


def test_recipes_need_a_pruned_program_and_their_data():
    with pytest.raises(InvalidInput, match=r"^program must be the result of fxpress.prune, but nothing was chosen"):
        fxpress.Recipe.of(fxpress.capture(model(), (X,)))
    config = PruneConfig(ratio=0.5, recovery="least-squares", multiple=1)
    recipe = fxpress.Recipe.of(fxpress.prune(model(), config, args=(X,), calibration=DATA))
    with pytest.raises(InvalidInput, match=r"^calibration must be given for a recipe that fits weights to it"):
        recipe.replay(model(), args=(X,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"must be a file written by Recipe.save, but: Expecting"),
        ("[]", r"must be a file written by Recipe.save with format 1"),
        ('{"format": 2, "steps": []}', r"must be a file written by Recipe.save with format 1"),
        ('{"format": 1, "steps": [{"pass": "run-code"}]}', r"must hold steps of a recipe \(remove-blocks, .*\), not"),
        (
            json.dumps({"format": 1, "steps": [{"pass": "remove-units", "again": False, "groups": [
                {"name": "conv2d", "size": 2, "gone": [2]}]}]}),
            r"must hold steps of a recipe",
        ),
        (
            json.dumps({"format": 1, "steps": [{"pass": "zero-weights", "reconstructed": False, "weights": [
                {"constant": "w", "layer": "l", "shape": [8, 8], "zeros": "AA=="}]}]}),
            r"must hold steps of a recipe",
        ),
    ],
)  # fmt: skip
def test_files_that_are_no_recipes_are_refused(text, message, tmp_path):
    path = Path(tmp_path / "recipe.json")
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        fxpress.Recipe.load(path)
    with pytest.raises(InvalidInput, match=r"must be a file written by Recipe.save, but: .*No such file"):
        fxpress.Recipe.load(tmp_path / "missing.json")
