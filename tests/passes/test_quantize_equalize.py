"""Channels between two layers get equal ranges, and lose what they never fall below."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.pass_manager import PassManager
from fxpress.passes.match import arguments
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.equalize import AbsorbBias, Equalize, EqualizeRanges, find_links, input_channels
from fxpress.passes.quantization.planning import make_plan
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.passes.quantization.walking import walk
from fxpress.target import Target
from fxpress.testing import check_pass, trace
from torch import nn

IMAGE, ROWS = torch.randn(1, 3, 10, 10), torch.randn(4, 12)


def uneven(layer):
    """The layer with output channels of very different size."""
    with torch.no_grad():
        factor = torch.logspace(-1.5, 1.5, layer.weight.shape[0])[torch.randperm(layer.weight.shape[0])]
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.mul_(factor)
    return layer


CHAINS = {
    "conv relu conv": (lambda: [uneven(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)], IMAGE),
    "depthwise": (
        lambda: [uneven(nn.Conv2d(3, 8, 1)), nn.ReLU(), uneven(nn.Conv2d(8, 16, 3, groups=8)), nn.Conv2d(16, 4, 1)],
        IMAGE,
    ),
    "grouped": (lambda: [uneven(nn.Conv2d(3, 8, 1, bias=False)), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2)], IMAGE),
    "linear": (lambda: [uneven(nn.Linear(12, 8)), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Linear(8, 4)], ROWS),
}


def fused(make, x):
    return PassManager("default").run(trace(nn.Sequential(*make()).eval(), x))


@pytest.mark.parametrize("name", CHAINS)
def test_channels_have_equal_ranges_after(name):
    after = check_pass(Equalize(), fused(*CHAINS[name]))
    links = list(find_links(after))
    assert links
    for link in links:
        own = after.constant(arguments(link.producer)["weight"]).flatten(1).abs().amax(1)
        (reader,) = link.consumers
        read = input_channels(reader, after.constant(arguments(reader)["weight"])).abs().amax(1)
        torch.testing.assert_close(own, read, rtol=0.05, atol=0)


def test_text(golden):
    golden(check_pass(Equalize(), fused(*CHAINS["depthwise"])).text())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = uneven(nn.Conv2d(3, 3, 1)), uneven(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.one(x)
        return self.three(self.two(y) + y)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = uneven(nn.Conv2d(3, 3, 1))

    def forward(self, x):
        return self.one(self.one(x).relu())


STAY = {
    "relu6 of a scaled channel": (lambda: [uneven(nn.Conv2d(3, 8, 1)), nn.ReLU6(), nn.Conv2d(8, 4, 1)], IMAGE),
    "gelu of a scaled channel": (lambda: [uneven(nn.Conv2d(3, 8, 1)), nn.GELU(), nn.Conv2d(8, 4, 1)], IMAGE),
    "a residual would have to be scaled too": (lambda: [Residual()], IMAGE),
    "not only read by layers": (lambda: [uneven(nn.Conv2d(3, 8, 1)), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1)], IMAGE),
    "a weight is used elsewhere too": (lambda: [Twice()], IMAGE),
}


@pytest.mark.parametrize("reason", STAY)
def test_stays_and_says_why(reason):
    after = check_pass(Equalize(), fused(*STAY[reason]))
    record = after.history[-1]
    assert not record.changed
    assert any(reason in text for text in record.skipped)


def test_computed_weights_stay():
    weight = torch.randn(8, 3, 1, 1)
    program = trace(lambda x, w: F.conv2d(F.conv2d(x, weight).relu(), w), IMAGE, torch.randn(4, 8, 1, 1))
    program = PassManager("normalize-conv,fuse-epilogue").run(program)
    record = check_pass(Equalize(), program).history[-1]
    assert not record.changed
    assert any("a weight is computed" in text for text in record.skipped)


def squared_error(program, items):
    config = QuantConfig(per_channel=False)
    plan = make_plan(program, config, Calibration(items, program), Target.parse("cpu"))
    exact, rounded = walk(plan, items)
    return float(sum((e - r).square().sum() for (e,), (r,) in zip(exact, rounded, strict=True)))


def test_one_scale_a_weight_loses_less():
    program, items = fused(*CHAINS["depthwise"]), [(torch.randn(1, 3, 10, 10),) for _ in range(4)]
    after = EqualizeRanges().prepare(program, QuantConfig(), Calibration(items, program))
    assert squared_error(after, items) < squared_error(program, items) / 4


def high_bias(padding):
    first = nn.Conv2d(3, 8, 1)
    with torch.no_grad():
        first.bias[::2] = 20
    return [first, nn.ReLU(), nn.Conv2d(8, 4, 3, padding=padding, bias=False)]


def test_high_biases_are_absorbed():
    program = fused(lambda: high_bias(0), IMAGE)
    items = [(torch.randn(1, 3, 10, 10),) for _ in range(4)]
    after = EqualizeRanges().prepare(program, QuantConfig(), Calibration(items, program))
    assert after.history[-1].name == "absorb-bias"
    for item in items:
        torch.testing.assert_close(after.run(*item), program.run(*item), rtol=1e-4, atol=1e-4)
    (link,) = find_links(after)
    lower = after.constant(arguments(link.producer)["bias"])
    (before,) = find_links(program)
    assert float(lower[::2].max()) < float(program.constant(arguments(before.producer)["bias"])[::2].max()) / 2


@pytest.mark.parametrize("generated", [True, False])
def test_not_into_padding_and_not_without_data(generated):
    program = fused(lambda: high_bias(0 if generated else 1), IMAGE)
    calibration = Calibration.generate(program) if generated else Calibration([(IMAGE,)], program)
    after = EqualizeRanges().prepare(program, QuantConfig(), calibration)
    assert all(record.name != "absorb-bias" for record in after.history)


def test_absorbing_nothing_changes_nothing():
    check_pass(AbsorbBias({"no-such-layer": torch.ones(3)}), fused(*CHAINS["linear"]))
