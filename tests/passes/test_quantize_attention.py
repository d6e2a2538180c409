"""Attention becomes one op on integers, its query with the zero point 0."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.testing import op_counts


class Attention(torch.nn.Module):
    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (torch.nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x, mask=None):
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        y = torch.nn.functional.scaled_dot_product_attention(
            split(self.q(x)), split(self.k(x)), split(self.v(x)), attn_mask=mask
        )
        return self.o(y.transpose(1, 2).flatten(2))


def quantized(layer, *inputs, **options):
    return fxpress.quantize(layer, args=inputs, calibration=[inputs] * 2, **options)


def sqnr(expected: torch.Tensor, actual: torch.Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - actual).square().sum()))


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Attention().eval().requires_grad_(False)


@pytest.mark.parametrize("masked", [False, True])
def test_between_layers(layer, masked):
    x = torch.randn(2, 9, 32)
    inputs = (x, torch.zeros(2, 1, 9, 9).masked_fill(torch.rand(2, 1, 9, 9) > 0.8, -1e4)) if masked else (x,)
    program = quantized(layer, *inputs)
    counts = op_counts(program)
    assert counts["quantized_attention"] == 1
    assert counts["quantized_linear"] == 3
    assert counts["quantized_linear_float"] == 1
    assert counts["quantize"] == 1
    node = next(n for n in program.nodes if "quantized_attention" in str(n.target))
    assert node.args[7] > 0
    assert sqnr(layer(*inputs), program.run(*inputs)) > 25
    artifact = fxpress.compile(program)
    torch.testing.assert_close(torch.as_tensor(artifact(*inputs)), program.run(*inputs), rtol=0.02, atol=0.02)


def test_ignored_attention_stays_float(layer):
    x = torch.randn(1, 5, 32)
    counts = op_counts(quantized(layer, x, ignore="aten.scaled_dot_product_attention.default"))
    assert counts["scaled_dot_product_attention"] == 1
    assert counts["quantized_linear_float"] == 4


def test_a_mask_of_another_dtype_is_no_reason_to_fail(layer):
    x = torch.randn(1, 5, 32)
    program = quantized(layer, x, torch.rand(1, 1, 5, 5) > 0.2)
    assert op_counts(program)["quantized_attention"] == 1
