"""Scales and zero points, presets, and weights as integers."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.ops import expand_weight
from fxpress.ops import fxpress as ops
from fxpress.passes.quantization.algorithms import find_algorithms
from fxpress.passes.quantization.scheme import (
    OBSERVERS,
    PRESETS,
    QParams,
    QuantConfig,
    config_of,
)
from fxpress.passes.quantization.weights import (
    integer_bias,
    overflow_of,
    quantize_weight,
    store_weight,
    weight_scales,
)
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(low=NUMBERS, high=NUMBERS, symmetric=st.booleans())
def test_a_range_is_covered_and_zero_is_exact(low, high, symmetric):
    low, high = min(low, high), max(low, high)
    p = QParams.of_range(low, high, symmetric=symmetric)
    assert p.scale == float(np.float32(p.scale))
    assert ops.dequantize(ops.quantize(torch.zeros(1), p.scale, p.zero), p.scale, p.zero).item() == 0
    seen = torch.tensor([low, high])
    found = ops.dequantize(ops.quantize(seen, p.scale, p.zero), p.scale, p.zero)
    assert (found - seen).abs().max() <= p.scale * 0.5001 + 1e-30
    if symmetric:
        assert p.zero == 0


def test_known_parameters():
    assert QParams.of_range(0, 2.55) == QParams(float(np.float32(0.01)), -128)
    assert QParams.of_range(-1.27, 0.5, symmetric=True) == QParams(float(np.float32(0.01)), 0)
    assert QParams.of_range(-2.55, 0).zero == 127


def test_a_constant_is_exact_and_zeros_have_a_scale():
    p = QParams.of_range(3.7, 3.7)
    assert ops.dequantize(ops.quantize(torch.tensor([3.7]), p.scale, p.zero), p.scale, p.zero).item() == pytest.approx(
        3.7
    )
    assert QParams.of_range(0, 0) == QParams(1 / 128, 0)
    assert QParams.of_range(-1e-31, 1e-31) == QParams(1 / 128, 0)


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1), (0, math.inf), (1, 0), (0, 1e31)])
def test_ranges_that_are_none(low, high):
    with pytest.raises(InvalidInput, match=r"^range must be two finite numbers in order, below 1e30 in size, not "):
        QParams.of_range(low, high)


def test_parameters_that_are_none():
    with pytest.raises(InvalidInput, match=r"^scale must be a positive number, not 0\.0$"):
        QParams(0.0, 0)
    with pytest.raises(InvalidInput, match=r"^zero point must be from -128 to 127, not 128$"):
        QParams(1.0, 128)


def test_a_clamp_becomes_integers():
    p = QParams.of_range(0, 25.5)
    assert p.clip(0, 6) == (-128, -68)
    assert p.clip(None, math.inf) == (-128, 127)
    assert p.clip(-5, 100) == (-128, 127)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "X"}, "requantise mode must be 'F' (float32) or 'I' (fixed point), not 'X'"),
        ({"weight_bits": 3}, "weight_bits must be one of [4, 8], not 3"),
        ({"activation_bits": 4}, "activation_bits must be 8, or None for activations in float32, not 4"),
        ({"weight_bits": 4}, "activation_bits must be None where weight_bits is 4: there are no 4-bit products"),
        ({"observer": "max"}, f"observer must be one of {list(OBSERVERS)}, not 'max'"),
        ({"weight_range": "min"}, "weight_range must be one of ['max', 'mse'], not 'min'"),
        ({"float_dtype": "int8"}, "float_dtype must be float32, bfloat16 or float16, not 'int8'"),
        ({"group": 0}, "group must be a whole number from 1 on, not 0"),
        ({"symmetric_weights": False}, "symmetric_weights must be True where weight_bits is 8, not False"),
    ],
)
def test_configs_that_are_none(changes, message):
    with pytest.raises(InvalidInput, match=rf"^{re.escape(message)}"):
        replace(QuantConfig(), **changes)


def test_presets():
    gemmini = config_of("int8-gemmini", algorithms=(), observer="mse")
    assert gemmini == QuantConfig(symmetric=True, per_channel=False, observer="mse")
    assert all(find_algorithms(config.algorithms) is not None for config in PRESETS.values())
    assert [name for name, config in PRESETS.items() if config.is_static] == [
        "int8", "int8-hardware", "int8-gemmini", "int8-accurate",
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match=r"^config must be a QuantConfig or one of \['bf16', .*, not 'int3'$"):
        config_of("int3")


X = QParams(0.05, -3)


@given(
    seed=st.integers(0, 1000), per_channel=st.booleans(), method=st.sampled_from(["max", "mse"]),
    shape=st.sampled_from([(5, 7), (4, 3, 3, 3), (2, 1, 5)]),
)  # fmt: skip
def test_weights_and_bias_are_near(seed, per_channel, method, shape):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)
    scale = weight_scales(weight, bias, X, per_channel=per_channel, method=method)
    integers = quantize_weight(weight, scale)
    assert (len(set(scale.tolist())) == 1) is not per_channel
    real = integers.double() * scale.double().reshape(-1, *[1] * (len(shape) - 1))
    clipped = 0.41 * weight.abs().max() if method == "mse" else 0
    assert (real - weight).abs().max() <= scale.max() / 2 + clipped + 1e-7
    zeros = X.zero * integers.flatten(1).long().sum(1)
    found = (integer_bias(bias, integers, scale, X) + zeros) * scale.double() * X.scale
    assert (found - bias).abs().max() <= scale.max() * X.scale / 2 + 1e-7
    assert integers.abs().max() <= 127


def test_mse_has_less_error_than_max():
    weight = torch.randn(8, 5000) ** 3
    bias = torch.zeros(8)

    def error(method):
        scale = weight_scales(weight, bias, X, method=method)
        return (quantize_weight(weight, scale) * scale[:, None] - weight).square().sum()

    assert error("mse") < error("max")


def test_a_dead_channel_keeps_its_bias():
    """What a batch norm leaves of a channel that it switched off: tiny weights, a bias that is not."""
    weight, bias = (
        torch.tensor([[0.0, 0.0], [1e-25, -1e-25], [1.0, 2.0], [0.0, 0.0]]),
        torch.tensor([0.5, 0.7, 0.1, 0.0]),
    )
    scale = weight_scales(weight, bias, X)
    integers = quantize_weight(weight, scale)
    whole = integer_bias(bias, integers, scale, X)
    assert overflow_of(integers, whole) is None
    assert torch.allclose(
        (whole + X.zero * integers.long().sum(1)) * scale.double() * X.scale, bias.double(), rtol=1e-3
    )
    assert scale[3] == 1


def test_overflow_is_found():
    assert overflow_of(torch.full((2, 200000), 127, dtype=torch.int8), torch.zeros(2, dtype=torch.int64)) is not None
    assert overflow_of(torch.zeros(1, 4, dtype=torch.int8), torch.tensor([2**31])) == 2**31
    assert overflow_of(torch.zeros(1, 4, dtype=torch.int8), torch.tensor([2**31 - 1])) is None


@given(
    bits=st.sampled_from([4, 8]), symmetric=st.booleans(), k=st.integers(1, 40), group=st.sampled_from([1, 8, 32, 64]),
)  # fmt: skip
def test_stored_weights_are_near(bits, symmetric, k, group):
    symmetric = symmetric or bits == 8
    weight = torch.randn(3, k, generator=torch.Generator().manual_seed(k))
    stored, scale, zero = store_weight(weight, bits, group, symmetric=symmetric)
    real = expand_weight(stored, scale, zero, bits, group, k)
    step = scale.repeat_interleave(group, 1)[:, :k]
    assert ((real - weight).abs() <= step * (0.51 if symmetric else 1.01)).all()
    assert (zero is None) == symmetric


def test_names_of_presets_and_algorithms():
    with pytest.raises(InvalidInput, match=r"^config must be a QuantConfig or one of \[.*\], not \['int8'\]$"):
        config_of(["int8"])
    with pytest.raises(InvalidInput, match=r"^algorithms must be a tuple of names, not 'gptq'; a single one is"):
        QuantConfig(algorithms="gptq")
