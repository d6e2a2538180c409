"""Every quantised fxpress:: op against its formula, bit for bit, in both orders and both modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.ops import expand_weight, fxpress
from fxpress.ops.requantization import multiplier_of, requantize, shift_of
from hypothesis import given
from hypothesis import strategies as st
from op_cases import Case, check_fake, every, made
from quantized_formulas import QUANTIZED_FORMULAS, fixed_point, requantized
from torch import Tensor

WIDE = (-128, 127)  # low and high


def int8(*shape: int) -> Tensor:
    """Any integers, every fourth of them an extreme one."""
    ends = torch.tensor([-128, 127], dtype=torch.int8)[torch.randint(2, shape)]
    return torch.where(torch.rand(shape) < 0.25, ends, torch.randint(-128, 128, shape, dtype=torch.int8))


def weight(*shape: int) -> Tensor:
    return int8(*shape).clamp(min=-127)


def bias(n: int) -> Tensor:
    return torch.randint(-5000, 5000, (n,), dtype=torch.int32)


def scales(*shape: int) -> Tensor:
    return torch.rand(shape) * 0.01 + 0.001


def floats(*shape: int) -> Tensor:
    return torch.randn(shape)


def conv(
    x: Tensor, w: Tensor, *window: Any, x_zero: int = 3, residual: Tensor | None = None, ends: tuple[int, int] = WIDE,
    mode: str = "F",
) -> tuple[Any, ...]:  # fmt: skip
    n = w.shape[0]
    return (x, w, bias(n), residual, scales(n), 0.05, x_zero, 0.03, -7, 0.11, 5, *ends, *window, mode)


def linear(x: Tensor, n: int, mode: str, residual: Tensor | None = None, y_scale: float = 0.2) -> tuple[Any, ...]:
    return (x, weight(n, x.shape[-1]), bias(n), residual, scales(n), 0.04, -9, 0.07, 4, y_scale, -3, *WIDE, mode)


PLAIN = ([1, 1], [1] * 4, [1, 1], 1)  # stride, padding, dilation and groups of a 3x3 convolution
UNEVEN = ([1, 2], [1, 0, 2, 1], [2, 1], 2)

ATTENTION_SCALES = (0.02, 0.03, 9, 0.05, -7, 0.06, 3)

EITHER: dict[str, tuple[str, Callable[[str], tuple[Any, ...]]]] = {  # as CASES, for a mode
    "conv1d": ("quantized_conv", lambda m: conv(int8(2, 3, 11), weight(4, 3, 3), [2], [1, 0], [1], 1, mode=m)),
    "conv2d": ("quantized_conv", lambda m: conv(int8(2, 3, 6, 5), weight(4, 3, 3, 3), *PLAIN, mode=m)),
    "conv2d-residual": (
        "quantized_conv",
        lambda m: conv(int8(1, 3, 6, 5), weight(4, 3, 3, 3), *PLAIN, residual=int8(1, 4, 6, 5), mode=m),
    ),
    "conv2d-relu6": (
        "quantized_conv",
        lambda m: conv(int8(1, 3, 5, 5), weight(4, 3, 3, 3), *PLAIN, ends=(5, 60), x_zero=-128, mode=m),
    ),
    "conv2d-groups": (
        "quantized_conv",
        lambda m: conv(int8(2, 4, 7, 6), weight(6, 2, 3, 2), *UNEVEN, x_zero=127, mode=m),
    ),
    "conv2d-depthwise": (
        "quantized_conv",
        lambda m: conv(int8(1, 4, 5, 5), weight(8, 1, 3, 3), [2, 2], [0, 1, 0, 1], [1, 1], 4, mode=m),
    ),
    "conv2d-extreme": (  # the largest sums there are
        "quantized_conv",
        lambda m: conv(
            torch.full((1, 64, 3, 3), -128, dtype=torch.int8),
            torch.tensor([127, -127], dtype=torch.int8).repeat_interleave(64 * 9).reshape(2, 64, 3, 3),
            *PLAIN,
            x_zero=-128,
            mode=m,
        ),
    ),
    "linear": ("quantized_linear", lambda m: linear(int8(2, 3, 5), 4, m)),
    "linear-residual": ("quantized_linear", lambda m: linear(int8(2, 3, 5), 4, m, int8(2, 3, 4))),
    "linear-row": ("quantized_linear", lambda m: linear(int8(50), 7, m, y_scale=1.5)),
    "matmul": (
        "quantized_matmul",
        lambda m: (int8(2, 3, 4, 6), int8(2, 3, 6, 5), 0.02, 7, 0.03, -128, 0.2, 1, *WIDE, m),
    ),
    "matmul-broadcast": (
        "quantized_matmul",
        lambda m: (int8(4, 9), int8(2, 9, 3), 0.05, -128, 0.01, 127, 0.7, 120, -128, 100, m),
    ),
    "add": ("quantized_add", lambda m: (int8(2, 5, 7), int8(2, 5, 7), 0.02, 3, 0.05, -6, 0.06, 2, *WIDE, m)),
    "add-broadcast": ("quantized_add", lambda m: (int8(2, 5, 7), int8(5, 1), 3.0, -128, 0.001, 127, 1.7, 0, 0, 90, m)),
    "add-ties": ("quantized_add", lambda m: (int8(40), int8(40), 0.5, 0, 0.25, 1, 1.0, -1, *WIDE, m)),
    "avg_pool1d": (
        "quantized_avg_pool",
        lambda m: (int8(2, 3, 11), [3], [2], [1], False, 0.03, -128, 0.02, 4, *WIDE, m),
    ),
    "avg_pool2d": (
        "quantized_avg_pool",
        lambda m: (int8(2, 3, 8, 7), [3, 2], [2, 1], [1, 1], False, 0.05, 100, 0.05, 100, -100, 110, m),
    ),
    "avg_pool2d-ties": (
        "quantized_avg_pool",
        lambda m: (int8(1, 3, 8, 6), [2, 2], [2, 2], [0, 0], False, 0.05, 0, 0.05, 0, *WIDE, m),
    ),
    "avg_pool2d-ceil": (
        "quantized_avg_pool",
        lambda m: (int8(2, 3, 8, 7), [3, 3], [2, 3], [1, 0], True, 0.05, -9, 0.04, 8, *WIDE, m),
    ),
    "requantize": ("requantize", lambda m: (int8(3, 50), 0.03, 12, 0.02, -12, *WIDE, m)),
    "requantize-ties": ("requantize", lambda m: (int8(3, 50), 0.5, 0, 1.0, 1, *WIDE, m)),
    "requantize-up": ("requantize", lambda m: (int8(3, 50), 6.0, -100, 1.0, 0, -50, 127, m)),
}

CASES: dict[str, Case] = {
    **{f"{name}-{m}": (op, lambda f=f, m=m: f(m)) for name, (op, f) in EITHER.items() for m in "FI"},
    "conv1d-float": (
        "quantized_conv_float",
        lambda: (int8(2, 3, 9), weight(4, 3, 3), bias(4), None, scales(4), 0.1, -5, [1], [2, 0], [2], 1, "none"),
    ),
    "conv2d-float": (
        "quantized_conv_float",
        lambda: (
            int8(2, 4, 7, 6), weight(6, 2, 3, 2), bias(6), floats(2, 6, 4, 4), scales(6), 0.1, 3, *UNEVEN, "relu"
        ),
    ),
    "linear-float": (
        "quantized_linear_float",
        lambda: (int8(2, 3, 5), weight(4, 5), bias(4), None, scales(4), 0.05, 7, "clamp(-1.0,2.0)"),
    ),
    "linear-float-residual": (
        "quantized_linear_float",
        lambda: (int8(2, 3, 500), weight(4, 500), bias(4), floats(2, 3, 4), scales(4), 0.05, 7, "none"),
    ),
    "matmul-float": ("quantized_matmul_float", lambda: (int8(2, 4, 6), int8(2, 6, 5), 0.07, -3, 0.03, 128 - 1)),
    "conv1d-sums": ("conv_sums", lambda: (int8(2, 3, 9), weight(4, 3, 3), -5, [1], [2, 0], [2], 1)),
    "conv2d-sums": ("conv_sums", lambda: (int8(2, 4, 7, 6), weight(6, 2, 3, 2), 127, *UNEVEN)),
    "linear-sums": ("linear_sums", lambda: (int8(2, 3, 500), weight(4, 500))),
    "matmul-sums": ("matmul_sums", lambda: (int8(2, 4, 6), int8(2, 6, 5), -3, 127)),
    "attention": (
        "quantized_attention",
        lambda: (int8(2, 2, 5, 8), int8(2, 2, 7, 8), int8(2, 2, 7, 3), None, False, 0.3, False, *ATTENTION_SCALES),
    ),
    "attention-causal-groups": (
        "quantized_attention",
        lambda: (int8(1, 4, 5, 8), int8(1, 2, 5, 8), int8(1, 2, 5, 3), None, True, 0.3, True, *ATTENTION_SCALES),
    ),
    "attention-mask": (
        "quantized_attention",
        lambda: (
            int8(2, 5, 8), int8(2, 7, 8), int8(2, 7, 3), torch.rand(2, 5, 7) > 0.4, False, 0.3, False, *ATTENTION_SCALES
        ),
    ),
    "quantize": ("quantize", lambda: (torch.cat([floats(60), torch.arange(-8, 8) / 4]) * 3, 0.5, 9)),
    "quantize-extreme": (
        "quantize",
        lambda: (torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0, -0.0, 1e-45]), 0.013, -128),
    ),
    "dequantize": ("dequantize", lambda: (torch.arange(-128, 128, dtype=torch.int8).reshape(16, 16), 0.3, -77)),
    "lookup": ("lookup", lambda: (torch.arange(-128, 128, dtype=torch.int8).reshape(16, 16), int8(256))),
    "max_pool1d": ("quantized_max_pool", lambda: (int8(2, 3, 11), [3], [2], [1], [2], False)),
    "max_pool2d": ("quantized_max_pool", lambda: (int8(2, 3, 8, 7), [3, 2], [2, 1], [1, 0], [1, 2], False)),
    "max_pool2d-ceil": ("quantized_max_pool", lambda: (int8(2, 3, 8, 7), [3, 3], [2, 3], [1, 0], [1, 1], True)),
    "max_pool1d-padding-alone": ("quantized_max_pool", lambda: (int8(1, 3, 1), [2], [1], [1], [2], False)),
    "embedding": ("quantized_embedding", lambda: (weight(9, 6), scales(9), torch.randint(0, 9, (2, 5)))),
    "dynamic_linear": (
        "dynamic_linear",
        lambda: (floats(2, 3, 65), weight(5, 65), floats(5), floats(2, 3, 5), scales(5), "relu"),
    ),
    "dynamic_linear-tiny": (
        "dynamic_linear",
        lambda: (
            torch.stack([torch.zeros(8), floats(8) * 1e-38, floats(8)]), weight(5, 8), None, None, scales(5), "none"
        ),
    ),
    "weight_only_linear-8": (
        "weight_only_linear",
        lambda: (floats(2, 3, 10).double(), weight(5, 10), floats(5).double(), None, scales(5, 3), None, 8, 4, "none"),
    ),
    "weight_only_linear-4": (
        "weight_only_linear",
        lambda: (
            floats(3, 9).double(), stored(5, 5), None, floats(3, 5).double(), scales(5, 3), None, 4, 4, "relu"
        ),
    ),
    "weight_only_linear-4-zeros": (
        "weight_only_linear",
        lambda: (floats(12).double(), stored(5, 6), None, None, scales(5, 3), stored(5, 3) & 15, 4, 4, "none"),
    ),
    "codebook": ("codebook", lambda: (torch.randint(0, 9, (4, 5), dtype=torch.uint8), floats(9))),
}  # fmt: skip

EVERY = every(CASES)
INEXACT = ("weight_only_linear",)  # sums floats, in an order of its own


def stored(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_every_formula_has_a_case() -> None:
    assert set(QUANTIZED_FORMULAS) == {op for op, _ in CASES.values()}


@pytest.mark.parametrize(("name", "channels_last"), EVERY)
def test_op_is_its_formula(name: str, channels_last: bool) -> None:
    op, arguments, expected = made(CASES[name], QUANTIZED_FORMULAS, channels_last)
    tolerance = 1e-12 if CASES[name][0] in INEXACT else 0
    torch.testing.assert_close(op(*arguments), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "channels_last"), EVERY)
def test_fake_agrees_in_shape_dtype_and_strides(name: str, channels_last: bool) -> None:
    op, arguments, _ = made(CASES[name], QUANTIZED_FORMULAS, channels_last)
    check_fake(op, arguments)


@pytest.mark.parametrize(("name", "channels_last"), EVERY)
def test_opcheck(name: str, channels_last: bool) -> None:
    op, arguments, _ = made(CASES[name], QUANTIZED_FORMULAS, channels_last)
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", ["conv2d-residual-F", "conv2d-float", "avg_pool2d-I", "max_pool2d"])
def test_channels_last_results_are_dense(name: str) -> None:
    op, arguments, _ = made(CASES[name], QUANTIZED_FORMULAS, True)
    assert op(*arguments).is_contiguous()


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(("-F", "-I"))])
def test_cases_reach_more_than_the_ends(name: str) -> None:
    op, arguments, _ = made(CASES[name], QUANTIZED_FORMULAS, False)
    assert op(*arguments).unique().numel() > (1 if "extreme" in name else 3)


accumulators = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.integers(-300, 300), st.sampled_from([-(2**31), 2**31 - 1, 2**24 + 1])
)
factors = st.one_of(
    st.floats(2.0**-40, 2.0**3),
    st.integers(-40, 3).map(lambda e: 2.0**e),
    st.integers(-12, 3).map(lambda e: 1.5 * 2.0**e),
)
zeros = st.integers(-128, 127)


@given(
    st.lists(st.tuples(accumulators, factors), min_size=1, max_size=40), st.booleans(), factors, zeros,
    st.tuples(zeros, zeros).map(sorted), st.sampled_from("FI"),
)  # fmt: skip
def test_requantize_is_exact(
    pairs: list[tuple[int, float]], two: bool, second: float, zero: int, ends: list[int], mode: str
) -> None:
    values, scale = np.array([v for v, _ in pairs]), np.array([f for _, f in pairs])
    terms = [(values, scale), (values[::-1] % 256 - 128, np.float64(second))][: 1 + two]
    found = requantize(
        [(torch.tensor(v, dtype=torch.int32), torch.tensor(f)) for v, f in ((v.copy(), f) for v, f in terms)],
        zero, *ends, mode,
    )  # fmt: skip
    assert found.dtype == torch.int8
    assert found.tolist() == requantized(terms, zero, *ends, mode).tolist()


@given(st.lists(factors, min_size=1, max_size=40))
def test_multiplier_and_shift_are_exact(values: list[float]) -> None:
    factor = torch.tensor(values, dtype=torch.float64)
    shift = shift_of(factor)
    assert list(zip(multiplier_of(factor, shift).tolist(), shift.tolist(), strict=True)) == list(
        map(fixed_point, values)
    )
    assert ((shift >= 1) & (shift <= 55)).all()


@pytest.mark.parametrize("exponent", range(-40, 4))
def test_multipliers_at_the_ends_of_their_range(exponent: int) -> None:
    near = [2.0**exponent * (1 + step * 2.0**-27) for step in range(-12, 13)]
    factor = torch.tensor(near, dtype=torch.float64)
    shift = shift_of(factor)
    multiplier = multiplier_of(factor, shift)
    assert list(zip(multiplier.tolist(), shift.tolist(), strict=True)) == list(map(fixed_point, near))
    assert (multiplier < 2**24).all()
    assert (multiplier >= 2**23).all() or exponent <= -32  # where the shift is at its largest


def test_modes_differ_on_ties() -> None:
    x = torch.tensor([-3, -1, 1, 3], dtype=torch.int8)
    assert fxpress.requantize(x, 0.5, 0, 1.0, 0, *WIDE, "F").tolist() == [-2, 0, 0, 2]
    assert fxpress.requantize(x, 0.5, 0, 1.0, 0, *WIDE, "I").tolist() == [-1, 0, 1, 2]


def test_padding_has_the_value_of_the_zero_point() -> None:
    """A real zero everywhere gives the bias alone, at borders too."""
    x_zero, w = 37, weight(2, 3, 3, 3)
    folded = torch.tensor([640, -320], dtype=torch.int32) - x_zero * w.flatten(1).int().sum(1).int()
    x = torch.full((1, 3, 4, 4), x_zero, dtype=torch.int8)
    ones = torch.ones(2)
    y = fxpress.quantized_conv(
        x, w, folded, None, ones, 1.0, x_zero, 1.0, 0, 10.0, 0, *WIDE, *PLAIN, "F", False
    )  # fmt: skip
    assert y[0, 0].unique().tolist() == [64]
    assert y[0, 1].unique().tolist() == [-32]


def test_expanded_weight_is_float32_of_the_depth_asked_for() -> None:
    w = expand_weight(torch.tensor([[0x21, 0xF3]], dtype=torch.uint8), torch.tensor([[2.0]]), None, 4, 4, 3)
    assert w.dtype == torch.float32
    assert w.tolist() == [[-14.0, -12.0, -10.0]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fxpress.requantize(int8(2), 1.0, 0, 1.0, 0, *WIDE, "G"),
            InvalidInput,
            r"^requantise mode must be 'F' \(float32\) or 'I' \(fixed point\), not 'G'$",
        ),
        (
            lambda: fxpress.weight_only_linear(floats(4), weight(2, 4), None, None, scales(2, 1), None, 3, 4, "none"),
            ValueError,
            r"^weight_only_linear must have 4 or 8 bits, not 3$",
        ),
        (lambda: fxpress.lookup(int8(2), int8(10)[:0]), IndexError, r"out of (bounds|range)"),
        (
            lambda: fxpress.quantized_matmul_float(int8(2, 3), int8(2, 3), 1.0, 0, 1.0, 0),
            RuntimeError,
            r"shapes cannot be multiplied",
        ),
    ],
)
def test_wrong_arguments(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
