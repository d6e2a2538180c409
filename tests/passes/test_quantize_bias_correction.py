"""Biases take up the mean error of rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.bias_correction import certain_part, correct_bias, mean_error
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.planning import make_plan
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.passes.quantization.walking import sample, walk
from fxpress.target import Target
from fxpress.testing import trace
from torch import nn


def planned(module, shape, algorithms=()):
    items = [(torch.rand(shape),) for _ in range(8)]
    program = PassManager("default").run(trace(module.eval(), *items[0]))
    config = QuantConfig(algorithms=algorithms, per_channel=False)
    return make_plan(program, config, Calibration(items, program), Target.parse("cpu")), items


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def squared_error(plan, items):
    exact, rounded = walk(plan, items)
    return float(sum((e - r).square().sum() for (e,), (r,) in zip(exact, rounded, strict=True)))


def test_mean_error_is_that_of_each_item_and_channel():
    wanted = [torch.randn(2, 5, 3), torch.randn(2, 7, 3)]
    found = [torch.randn_like(x) for x in wanted]
    expected = torch.stack([(w - f).double().mean((0, 1)) for w, f in zip(wanted, found, strict=True)])
    torch.testing.assert_close(mean_error(wanted, found, -1), expected)
    moved = [x.movedim(-1, 1) for x in wanted], [x.movedim(-1, 1) for x in found]
    torch.testing.assert_close(mean_error(*moved, 1), expected)


def test_what_items_disagree_on_is_chance():
    same, noise = torch.full((8, 1), 0.5), torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -0.9]).unsqueeze(1)
    assert certain_part(torch.cat((same, noise), 1)).tolist() == [0.5, 0.0]
    assert certain_part(torch.ones(1, 3)).tolist() == [0.0] * 3
    mixed = certain_part(torch.tensor([[0.5], [1.5], [0.5], [1.5]]))
    assert float(mixed) == pytest.approx(1 - 1 / 12)


def test_layers_have_little_mean_error_left():
    plan, items = planned(convolutions(), (1, 3, 12, 12))
    means = {"before": [], "after": []}

    def look(sight, when):
        means[when].append(float(mean_error(sight.wanted, sight.sums, -1).mean(0).square().sum()))
        return sight.layer

    walk(plan, items, lambda sight: look(sight, "before"))
    walk(plan, items, correct_bias)
    walk(plan, items, lambda sight: look(sight, "after"))
    assert all(after < before / 10 for before, after in zip(*means.values(), strict=True))


def test_is_closer_than_rounding_alone():
    before, items = planned(convolutions(), (1, 3, 12, 12))
    after = replace(before, layers=dict(before.layers))
    walk(after, items, correct_bias)
    assert squared_error(after, items) < 0.8 * squared_error(before, items)


def test_config_names_it():
    module = convolutions()
    plain, _ = planned(module, (1, 3, 12, 12))
    plan, _ = planned(module, (1, 3, 12, 12), ("bias-correction",))
    last = list(plan.layers)[-1]
    assert not torch.equal(plan.layers[last].bias, plain.layers[last].bias)


@pytest.mark.parametrize(("shape", "changes"), [((4, 16), True), ((1, 5, 16), False)])
def test_linear_layers_over_sequences_stay(shape, changes):
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    plan, items = planned(module, shape)
    before = {name: layer.bias for name, layer in plan.layers.items()}
    walk(plan, items, correct_bias)
    assert any(not torch.equal(layer.bias, before[name]) for name, layer in plan.layers.items()) == changes


def test_sample_is_spread_over_all_items_and_the_same_each_time():
    items = [(torch.tensor(float(i)),) for i in range(100)]
    chosen = [float(x) for (x,) in sample(items, 20)]
    assert chosen == [float(x) for (x,) in sample(iter(items), 20)]
    assert len(set(chosen)) == 20
    assert sum(number >= 50 for number in chosen) >= 5
    assert len(sample(items[:3], 20)) == 3
