"""Residual branches that add little go as a whole."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.remove_blocks import RemoveBlocks, find_blocks
from fxpress.testing import op_counts, trace
from torch import Tensor, nn

X = torch.randn(2, 8)


class Branches(nn.Module):
    """Sums of x and branches of x, those named in `gone` left out; the second branch holds one of its own."""

    def __init__(self, *gone: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        with torch.no_grad():
            for layer, scale in zip(self.layers, (1.0, 1e-3, 0.1, 1e-2), strict=True):
                layer.weight.mul_(scale)
                layer.bias.mul_(scale)
        self.gone = gone

    def branch(self, number: int, x: Tensor, branch: Tensor) -> Tensor:
        return x if number in self.gone else x + branch

    def forward(self, x: Tensor) -> Tensor:
        x = self.branch(0, x, self.layers[0](x).relu())
        y = self.branch(1, x, self.layers[1](x).tanh())
        x = self.branch(2, x, self.layers[2](y))
        return self.branch(3, x, self.layers[3](x)).relu()


def totals(program: fxpress.Program) -> list[str]:
    return [block.total.name for block in find_blocks(program)]


@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (3,), (0, 1), (1, 2), (0, 3), (0, 1, 2, 3)])
def test_the_rest_is_the_model_without_the_branch(gone):
    program = trace(Branches().eval(), X)
    names = totals(program)
    assert len(names) == 4
    small = PassManager([RemoveBlocks(tuple(names[i] for i in gone))]).run(program)
    wanted = Branches(*gone).eval()
    assert torch.allclose(small.run(X), wanted(X), atol=1e-6)
    left = 4 - len(set(gone) | ({1} if 2 in gone else set()))  # the second branch lies in the third
    assert op_counts(small).get("linear", 0) == left


def test_what_adds_least_goes_first():
    program = fxpress.prune(Branches().eval(), PruneConfig(ratio=0.0, blocks=0.5), args=(X,), calibration=[X])
    assert torch.allclose(program.run(X), Branches(1, 3).eval()(X), atol=1e-6)


def test_sums_of_other_values_are_no_blocks():
    def function(x: Tensor, y: Tensor) -> Tensor:
        return x + y + (x + x.exp())

    assert totals(trace(function, X, X)) == []


def test_blocks_of_a_model_without_any_are_refused():
    with pytest.raises(
        InvalidInput, match=r"^blocks must be 0 for a model without residual branches, x \+ f\(x\), not 0\.5$"
    ):
        fxpress.prune(nn.Linear(8, 8), PruneConfig(blocks=0.5), args=(X,), calibration=[X])
    with pytest.raises(InvalidInput, match=r"^blocks must be a number from 0 up to but not 1, not 1$"):
        PruneConfig(blocks=1)


def test_nothing_named_changes_nothing():
    program = trace(Branches().eval(), X)
    assert PassManager("remove-blocks").run(program).text() == program.text()
