"""The error each layer causes alone."""

from __future__ import annotations

import logging

import pytest
import torch
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.costs import quantized_program
from fxpress.passes.quantization.planning import make_plan
from fxpress.passes.quantization.scheme import PRESETS, QuantConfig
from fxpress.passes.quantization.sensitivity import groups, measure_sensitivity, relative_noise, whole_noise
from fxpress.report.decisions import decibel
from fxpress.target import Target
from fxpress.testing import trace
from torch import nn

TARGET = Target.parse("cpu")
ITEMS = [torch.randn(64, 16) for _ in range(4)]


def planned(module, items=ITEMS, config="int8"):
    config = config if isinstance(config, QuantConfig) else PRESETS[config]
    program = PassManager("default{merge=false}", target=TARGET).run(trace(module.eval(), items[0]))
    data = Calibration(items, program)
    return make_plan(program, config, data, TARGET), data


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))


def outliers():
    """The middle layer has one row of huge weights, whose result the activation always cuts off."""
    module = mlp()
    with torch.no_grad():
        module[2].weight[0] *= 100
        module[2].bias[0] = -1000.0
    return module


def test_the_layer_with_outlier_weights_stands_out():
    plan, data = planned(outliers(), config=QuantConfig(per_channel=False))
    candidates = groups(plan)
    assert [len(names) for names in candidates] == [1, 1, 1]
    first, middle, last = measure_sensitivity(plan, data, candidates)
    assert middle.layer > 10 * first.layer
    assert middle.output > 5 * max(first.output, last.output)
    assert first.output > 0
    assert last.output == last.layer  # the model's result


@pytest.mark.parametrize("config", ["int8", "int8-weights", "int4-weights", "int8-dynamic"])
def test_everything_together_is_what_the_quantised_program_does(config):
    plan, data = planned(mlp(), config=config)
    program = quantized_program(plan, TARGET)
    noises = [relative_noise(program.run_flat(x), plan.program.run_flat(x)) for x in ITEMS]
    assert whole_noise(plan, data) == pytest.approx(sum(noises) / len(noises), rel=0.05)


@pytest.mark.parametrize("config", [QuantConfig(), QuantConfig(activation_bits=None)], ids=str)
def test_one_layer_is_what_the_program_with_that_layer_does(config):
    module = mlp()
    plan, data = planned(module, config=config)
    for names, noise in zip(groups(plan), measure_sensitivity(plan, data, groups(plan)), strict=True):
        alone = make_plan(plan.program, config, Calibration(ITEMS, plan.program), TARGET, only=list(names))
        program = quantized_program(alone, TARGET)
        noises = [relative_noise(program.run_flat(x), plan.program.run_flat(x)) for x in ITEMS]
        # with other layers in float32 a result may be wide that is int8 in the whole plan, so less is rounded
        assert sum(noises) / len(noises) <= 1.2 * noise.output


def test_layers_of_a_concatenation_share_a_scale_and_a_fate():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.last = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
            self.last = nn.Conv2d(16, 4, 1)

        def forward(self, x):
            return self.last(torch.cat([self.left(x), self.right(x)], 1))

    plan, data = planned(Fork(), [torch.randn(1, 8, 8, 8)])
    both, last = groups(plan)
    assert (len(both), len(last)) == (2, 1)
    found, _ = measure_sensitivity(plan, data, [both, last])
    assert found.output > 0


def test_what_no_result_depends_on_costs_nothing():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.a(x), (self.b(x) > 1e9).float()

    plan, data = planned(Two())
    noises = dict(zip(groups(plan), measure_sensitivity(plan, data, groups(plan)), strict=True))
    assert sorted(noise.output > 0 for noise in noises.values()) == [False, True]


def test_cache(tmp_path, caplog):
    module = mlp()
    plan, data = planned(module)
    stages = []
    options = {"cache": tmp_path, "progress": stages.append}
    first = measure_sensitivity(plan, data, groups(plan), **options)
    assert "sensitivity: item 4 of 4, layer 3 of 3" in stages
    assert measure_sensitivity(plan, data, groups(plan), **options) == first
    assert stages[-1] == "sensitivity from cache"
    assert measure_sensitivity(plan, data, groups(plan)[:2], **options) == first[:2]
    with torch.no_grad():
        module[0].weight.mul_(2)
    again, data = planned(module)
    assert measure_sensitivity(again, data, groups(again), **options) != first
    for file in tmp_path.glob("sensitivity-*.json"):
        file.write_text("[1, 2")
    with caplog.at_level(logging.WARNING, "fxpress.quantize"):
        assert measure_sensitivity(again, data, groups(again), **options)
    assert "holds no sensitivities and is written anew" in caplog.text


def test_decibel():
    assert decibel(1e-4) == pytest.approx(40)
    assert decibel(0.0) == float("inf")
