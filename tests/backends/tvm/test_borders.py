"""Haloed values of one shape share memory that keeps its zero border; where that costs too much, borders are filled."""

import fxpress
import numpy as np
import pytest
import torch
from fxpress import PassManager, Target
from fxpress.backends.tvm import TvmBackend
from fxpress.backends.tvm.kernels.pointwise import FillFrame
from fxpress.testing import trace


def convolutions(count, channels=16):
    layers = [torch.nn.Conv2d(channels, channels, 3, padding=1) for _ in range(count)]
    return torch.nn.Sequential(*(module for conv in layers for module in (conv, torch.nn.ReLU())))


def lower(module, x):
    target = Target.parse("cpu")
    return TvmBackend().lower(PassManager("default", target=target).run(trace(module, x)), target)


def fills(calls):
    return [call for call in calls if isinstance(call.kernel, FillFrame)]


def test_a_chain_needs_no_fills_and_little_memory():
    lowered = lower(convolutions(9), torch.randn(1, 16, 12, 12))
    assert len(fills(lowered.lowering.calls)) == 9
    assert fills(lowered.kernel_calls) == []
    assert lowered.arena_bytes <= lowered.peak_bytes + (1 << 16)


class Pyramid(torch.nn.Module):
    """A shape for every convolution: memory that keeps all borders would be far more than what lives at once."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(24, 24, 3, padding=1) for _ in range(6))

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = torch.nn.functional.interpolate(layer(x).relu(), size=(60 + i, 60 - i))
        return x


def test_borders_are_filled_where_keeping_them_costs_too_much():
    module, x = Pyramid(), torch.randn(1, 24, 60, 60)
    lowered = lower(module, x)
    assert 0 < len(fills(lowered.kernel_calls))
    assert lowered.arena_bytes <= 1.2 * lowered.peak_bytes
    artifact = fxpress.compile(module, (x,))
    for _ in range(2):
        torch.testing.assert_close(artifact(x), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_kept_border_stays_zero_from_call_to_call(count):
    module = convolutions(count)
    artifact = fxpress.compile(module, (torch.randn(1, 16, 9, 7),))
    for scale in (1.0, 1e4, float("nan"), 1.0):
        x = torch.randn(1, 16, 9, 7) * scale
        np.testing.assert_allclose(artifact(x.numpy()), module(x).detach().numpy(), rtol=1e-4, atol=1e-4 * abs(scale))


def test_a_pytorch_call_stays_between_the_calls_it_was_between():
    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.after = convolutions(2, 4), convolutions(2, 4)

        def forward(self, x):
            return self.after(torch.logcumsumexp(self.before(x), 2))

    module, x = Mixed(), torch.randn(1, 4, 8, 8)
    artifact = fxpress.compile(module, (x,), fallback="torch")
    torch.testing.assert_close(artifact(x), module(x), rtol=1e-4, atol=1e-5)
