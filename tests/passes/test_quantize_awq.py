"""Weights of channels with large inputs are stored finely."""

from __future__ import annotations

import pytest
import torch
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.awq import Awq, best_scales, stored_error
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.testing import trace
from torch import nn

CONFIG = QuantConfig(activation_bits=None, weight_bits=4, group=16)
SPREAD = torch.ones(32)
SPREAD[::7] = 30


@pytest.mark.parametrize("config", [CONFIG, QuantConfig(activation_bits=None, weight_bits=4, symmetric_weights=False)])
def test_scales_beat_none_where_some_channels_are_large(config):
    rows, weight = torch.randn(200, 32) * SPREAD, torch.randn(24, 32)
    s = best_scales(rows, weight, config)
    assert stored_error(rows, weight, s, config) < 0.7 * stored_error(rows, weight, torch.ones(32), config)
    assert float(s.log().mean()) == pytest.approx(0, abs=1e-9)
    assert float(s[::7].min()) > float(s[1])


def test_inputs_of_zeros_have_no_scales():
    assert best_scales(torch.zeros(5, 32), torch.randn(8, 32), CONFIG).tolist() == [1.0] * 32


def prepared(module):
    items = [(torch.randn(2, 12, 32) * SPREAD,) for _ in range(4)]
    program = PassManager("default").run(trace(module, *items[0]))
    return program, Awq().prepare(program, CONFIG, Calibration(items, program)), items[0]


def test_scales_move_into_the_norm_before():
    norm = nn.LayerNorm(32)
    with torch.no_grad():
        norm.weight.copy_(SPREAD)
    before, after, inputs = prepared(nn.Sequential(norm, nn.Linear(32, 16)))
    assert after.history[-1].changed
    torch.testing.assert_close(after.run(*inputs), before.run(*inputs))
    assert len(after.nodes) == len(before.nodes)


@pytest.mark.parametrize("make", [lambda: nn.Linear(32, 16), lambda: nn.Sequential(nn.GELU(), nn.Linear(32, 16))])
def test_nothing_is_multiplied_for_it(make):
    before, after, _ = prepared(make())
    assert after is before


def test_generated_inputs_tell_nothing():
    program = PassManager("default").run(trace(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 16)), torch.randn(4, 32)))
    assert Awq().prepare(program, CONFIG, Calibration.generate(program)) is program
