"""Attention on 8-bit integers against its reference op, for every instruction set."""

from __future__ import annotations

from typing import Any

import fxpress
import pytest
import torch
from fxpress.backends.tvm.kernels.attention import Heads, Mask
from fxpress.backends.tvm.kernels.integer import DotProduct
from fxpress.backends.tvm.kernels.integer_attention import IntegerAttention
from fxpress.ops import fxpress as ops
from hypothesis import given
from hypothesis import strategies as st

TARGETS = ["cpu", "cpu{isa=avx512}", "cpu{isa=avx2}"]
SCALES = {"query_scale": 0.03, "key_scale": 0.031, "value_scale": 0.02, "y_scale": 0.015}


class Layer(torch.nn.Module):
    def __init__(self, causal: bool, grouped: bool, zeros: tuple[int, int, int]) -> None:
        super().__init__()
        self.causal, self.grouped, self.zeros = causal, grouped, zeros

    def forward(self, q, k, v, mask=None):
        key_zero, value_zero, y_zero = self.zeros
        y = ops.quantized_attention(
            q, k, v, mask, self.causal, 0.125, self.grouped, 0.03, 0.031, key_zero, 0.02, value_zero, 0.015, y_zero
        )
        return ops.dequantize(y, 1.0, 0)


def steps_apart(layer: Layer, inputs: tuple[Any, ...], target: str) -> torch.Tensor:
    artifact = fxpress.compile(layer, inputs, target=target, self_test=False)
    return (torch.as_tensor(artifact(*inputs)) - layer(*inputs)).abs()


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8)


def masks(kind: str, batch: int, queries: int, keys: int) -> torch.Tensor:
    if kind == "keys":
        return torch.where(torch.rand(batch, 1, 1, keys) > 0.3, 0.0, -float("inf"))
    return torch.randn(batch, 1, queries, keys) if kind == "scores" else torch.rand(batch, 1, 1, keys) > 0.3


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["none", "causal", "keys", "scores", "bool"])
def test_masks(kind: str, target: str) -> None:
    torch.manual_seed(0)
    inputs = (integers(1, 2, 37, 16), integers(1, 2, 37, 16), integers(1, 2, 37, 16))
    if kind in ("keys", "scores", "bool"):
        inputs += (masks(kind, 1, 37, 37),)
    apart = steps_apart(Layer(kind == "causal", False, (3, -5, 7)), inputs, target)
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 1e-3  # an exponential that rounds another way


@given(
    batch=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    queries=st.sampled_from([1, 5, 16, 70]),
    keys=st.sampled_from([1, 3, 17, 64]),
    depth=st.sampled_from([4, 7, 32]),
    value_depth=st.sampled_from([1, 16, 19]),
    zeros=st.tuples(*[st.sampled_from([-128, 0, 3, 127])] * 3),
    target=st.sampled_from([*TARGETS, "cpu{isa=avx2,extensions=avxvnni}"]),
)
def test_any_shape(
    batch: int, groups: int, queries: int, keys: int, depth: int, value_depth: int, zeros: Any, target: str
) -> None:
    torch.manual_seed(1)
    q, k, v = (
        integers(batch, 2 * groups, queries, depth),
        integers(batch, 2, keys, depth),
        integers(batch, 2, keys, value_depth),
    )
    apart = steps_apart(Layer(False, groups > 1, zeros), (q, k, v), target)
    assert apart.max() <= 1
    assert (apart > 0).float().mean() <= 0.02


def test_a_query_that_sees_nothing_gives_the_zero_point() -> None:
    inputs = (integers(1, 1, 4, 8), integers(1, 1, 4, 8), integers(1, 1, 4, 8), torch.zeros(1, 1, 4, 4).bool())
    artifact = fxpress.compile(Layer(False, False, (0, 0, 9)), inputs, self_test=False)
    assert (torch.as_tensor(artifact(*inputs)) == 9).all()


def test_three_dimensions() -> None:
    torch.manual_seed(2)
    assert steps_apart(Layer(False, False, (1, 2, 3)), tuple(integers(3, 9, 8) for _ in range(3)), "cpu").max() <= 1


def test_reference_is_attention() -> None:
    torch.manual_seed(3)
    q, k, v = (integers(1, 2, 20, 16) for _ in range(3))
    real = torch.nn.functional.scaled_dot_product_attention(
        q.double() * 0.003, (k.double() - 3) * 0.031, (v.double() + 5) * 0.02, scale=0.125
    )
    y = ops.quantized_attention(q, k, v, None, False, 0.125, False, 0.003, 0.031, 3, 0.02, -5, 0.015, 7)
    assert ((y.double() - 7) * 0.015 - real).abs().max() < 0.015


def test_mask_in_an_order_that_scores_cannot_take_is_refused() -> None:
    heads = Heads(64, 64, 8)
    mask = Mask("float32", 0, 0, 8, 1, 1)
    with pytest.raises(ValueError, match=r"^mask must be one value for all queries"):
        IntegerAttention(
            batch=1, heads=1, kv_heads=1, queries=8, keys=8, depth=8, value_depth=8, q=heads, k=heads, v=heads,
            y=heads, mask=mask, dot=DotProduct(8), query_vectors=1, key_rows=4, value_tile=(4, 1),
        )  # fmt: skip
