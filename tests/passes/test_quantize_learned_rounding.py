"""Rounding up or down, learned."""

from __future__ import annotations

import pytest
import torch
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.gptq import round_error
from fxpress.passes.quantization.learned_rounding import learn_rounding
from fxpress.passes.quantization.planning import make_plan
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.passes.quantization.walking import walk
from fxpress.target import Target
from fxpress.testing import trace
from torch import nn

ZERO = torch.zeros(1)


def problem(groups, n, k):
    x = torch.randn(groups, 4 * k, k, dtype=torch.float64) @ torch.randn(groups, k, k, dtype=torch.float64)
    weight = torch.randn(groups, n, k)
    return weight, x.mT @ x, weight.abs().amax(2, keepdim=True) / 7


@pytest.mark.parametrize(("groups", "n", "k"), [(1, 12, 60), (4, 6, 9)])
def test_beats_the_nearest_integers(groups, n, k):
    weight, moment, scale = problem(groups, n, k)
    found = learn_rounding(weight, moment, scale, ZERO, -7, 7)
    steps = (weight / scale).double()
    assert torch.equal(found, found.round())
    assert bool(((found - steps).abs() < 1).all())
    nearest = steps.round()
    before, after = (round_error(weight, moment, q, scale, ZERO).sum() for q in (nearest, found))
    assert after < 0.7 * before


def test_limits_and_zero_points():
    weight, moment, scale = problem(1, 5, 20)
    found = learn_rounding(weight, moment, scale / 2, torch.full((1,), 8.0), 1, 15)
    assert float(found.min()) >= 1
    assert float(found.max()) <= 15


def test_independent_inputs_are_rounded_to_the_nearest():
    weight, _, scale = problem(1, 6, 10)
    found = learn_rounding(weight, torch.eye(10).unsqueeze(0), scale, ZERO, -7, 7)
    assert torch.equal(found, (weight / scale).round().double())


def test_integer_layers_come_closer():
    module, mix = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(24, 24)
    items = [(torch.randn(24, 24) @ mix,) for _ in range(8)]
    program = PassManager("default").run(trace(module, *items[0]))
    errors = []
    for algorithms in ((), ("learned-rounding",)):
        config = QuantConfig(per_channel=False, algorithms=algorithms)
        exact, rounded = walk(make_plan(program, config, Calibration(items, program), Target.parse("cpu")), items)
        errors.append(float(sum((e - r).square().sum() for (e,), (r,) in zip(exact, rounded, strict=True))))
    assert errors[1] < errors[0]
