"""The error that each group's loss causes, alone."""

from __future__ import annotations

from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.pruning_sensitivity import measure_sensitivity
from fxpress.testing import trace
from torch import nn

X = torch.randn(3, 4)


def program():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[2].weight[4:], model[2].bias[4:] = 0, 0  # half of the second group does nothing
    return trace(model, X)


def test_errors_are_those_of_the_group_alone(tmp_path: Path):
    found = measure_sensitivity(program(), PruneConfig(), [(X,)], ratios=(0.0, 0.5, 0.75))
    first, second = found.errors.values()
    assert first[0] == second[0] == 0
    assert min(first[1:]) > 0.01
    assert second[1] < 1e-6 < second[2]
    lines = found.text().split("\n")
    assert lines[0].split() == ["group", "0", "0.5", "0.75"]
    assert lines[1].startswith("linear ")
    found.plot(tmp_path / "plot.html")
    assert "50% removed" in (tmp_path / "plot.html").read_text()


def test_ratios_and_data_are_checked():
    with pytest.raises(InvalidInput, match=r"^ratios must be a number from 0 up to but not 1, not 1$"):
        measure_sensitivity(program(), PruneConfig(), [(X,)], ratios=(1,))
    with pytest.raises(InvalidInput, match=r"^data must have at least one item, not none$"):
        measure_sensitivity(program(), PruneConfig(), [])


def test_layers_of_a_pattern_alone():
    original = program()
    found = measure_sensitivity(original, PruneConfig(pattern="elements"), [(X,)], ratios=(0.0, 0.5, 0.9))
    assert found.text().split("\n")[0].split() == ["layer", "0", "0.5", "0.9"]
    assert list(found.errors) == ["linear", "linear_1", "linear_2"]
    first, second, _ = found.errors.values()
    assert first[0] == second[0] == 0
    assert min(first[1:]) > 0.01
    assert second[1] < 1e-6 < second[2]  # half of that weight is zero
    alone = fxpress.prune(original, PruneConfig(pattern="elements"), only="0")
    wanted = original.run(X)
    assert first[1] == pytest.approx(float((alone.run(X) - wanted).norm() / wanted.norm()))
    note = original.clone()
    found.note(note)
    assert [row["group"] for row in note.history[-1].decisions] == list(found.errors)


@pytest.mark.parametrize("importance", ["l2", "activation"])
def test_layers_reconstructed_alone(importance):
    original, items = program(), [(torch.randn(3, 4) @ torch.randn(4, 4),) for _ in range(8)]
    errors = {}
    for reconstruct in (False, True):
        config = PruneConfig(pattern="2:4", reconstruct=reconstruct, importance=importance)
        found = measure_sensitivity(original, config, items)
        assert found.ratios == (0.5,)
        errors[reconstruct] = [x for (x,) in found.errors.values()]
    assert sum(errors[True]) < 0.9 * sum(errors[False])


def test_ratios_that_contradict_a_pattern_are_refused():
    with pytest.raises(InvalidInput, match=r"^ratios must be \[0\.5\] with pattern='2:4', not \[0\.5, 0\.75\]$"):
        measure_sensitivity(program(), PruneConfig(pattern="2:4"), [(X,)], ratios=(0.5, 0.75))
