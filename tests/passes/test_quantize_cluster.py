"""Weights that share values."""

from __future__ import annotations

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.cluster import codebook_of
from fxpress.testing import op_counts, trace
from torch import nn

ROWS = torch.randn(2, 128)


@pytest.mark.parametrize(("count", "most"), [(256, 0.009), (16, 0.12), (3, 0.45)])
def test_values_suit_normal_weights(count, most):
    weight = torch.randn(100, 120)
    indices, values = codebook_of(weight, count)
    found = values[indices.long()]
    assert indices.shape == weight.shape
    assert indices.dtype == torch.uint8
    assert len(values) == count
    assert float((found - weight).square().mean().sqrt()) < most
    step = (weight.max() - weight.min()) / (count - 1)
    evenly = (weight / step).round() * step
    assert float((found - weight).square().mean()) < float((evenly - weight).square().mean())


def test_every_weight_has_the_nearest_value_and_zero_comes_first():
    weight = torch.randn(40, 50)
    weight[weight.abs() < 0.5] = 0
    indices, values = codebook_of(weight, 20)
    distance = (weight.unsqueeze(-1) - values).abs()
    torch.testing.assert_close((weight - values[indices.long()]).abs(), distance.amin(-1))
    assert float(values[0]) == 0
    assert bool((indices[weight == 0] == 0).all())


@pytest.mark.parametrize("weight", [torch.zeros(3, 4), torch.full((3, 4), -2.5), torch.tensor([[1.0, 2.0, 3.0]])])
def test_few_different_weights_are_exact(weight):
    indices, values = codebook_of(weight, 4)
    assert torch.equal(values[indices.long()], weight)


@pytest.mark.parametrize("count", [1, 257])
def test_wrong_counts(count):
    with pytest.raises(InvalidInput, match=rf"^values must be from 2 to 256, not {count}$"):
        codebook_of(torch.randn(4, 4), count)


def test_weights_that_are_not_finite():
    with pytest.raises(InvalidInput, match=r"^weight must hold finite numbers to be clustered, not NaN or infinity"):
        codebook_of(torch.tensor([1.0, torch.nan]), 4)


def fused(module, *inputs):
    return PassManager("default").run(trace(module.eval(), *inputs))


def clustered(program, text="cluster-weights"):
    after = PassManager(text).run(program)
    again = PassManager(text).run(after)
    assert again.text() == after.text()
    assert PassManager("default").run(after).text() == after.text()
    return after


def test_text(golden):
    module = nn.Sequential(nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 1))
    program = clustered(fused(module, torch.randn(1, 64, 6, 6)), "cluster-weights{values=16}")
    golden(program.text())
    assert any("fewer than 16384 elements" in reason for reason in program.history[-1].skipped)


def test_numbers_are_near_and_constants_small():
    module = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128))
    before = fused(module, ROWS)
    after = clustered(before)
    assert op_counts(after) == {"codebook": 2, "linear": 2}
    wanted, found = before.run(ROWS), after.run(ROWS)
    assert float((wanted - found).square().mean()) < 1e-3 * float(wanted.square().mean())

    def size(program):
        return sum(x.nbytes for x in program.constants.values())

    assert size(after) < 0.28 * size(before)


def test_weights_that_others_read_stay():
    weight = torch.randn(128, 128)
    function = lambda x: torch.nn.functional.linear(x, weight) @ weight.sin()  # noqa: E731
    program = PassManager("normalize-linear").run(trace(function, ROWS))
    assert "codebook" not in op_counts(PassManager("cluster-weights").run(program))


def test_other_types_stay():
    program = fused(nn.Linear(128, 256, dtype=torch.float64), ROWS.double())
    after = PassManager("cluster-weights").run(program)
    assert "codebook" not in op_counts(after)
    assert any("torch.float64, not float32" in reason for reason in after.history[-1].skipped)
