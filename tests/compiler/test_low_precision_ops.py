"""The ops with 16-bit floats as operands against their formulas, and their fakes against what they return."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress.ops import fxpress
from op_cases import Arguments, Case, check_fake, every, made
from op_formulas import LOW_PRECISION_FORMULAS
from torch import Tensor

BFLOAT16, FLOAT16 = torch.bfloat16, torch.float16


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers, whose sums of products are exact in float32."""
    return torch.randint(-8, 9, shape).to(dtype)


def linear(x: torch.dtype, weight: torch.dtype, result: torch.dtype) -> Callable[[], Arguments]:
    return lambda: (
        integers(2, 3, 5, dtype=x), integers(4, 5, dtype=weight), integers(4), integers(2, 3, 4), "relu", result,
    )  # fmt: skip


CASES: dict[str, Case] = {
    "linear": ("narrow_linear", linear(torch.float32, BFLOAT16, torch.float32)),
    "linear-bfloat16": ("narrow_linear", linear(BFLOAT16, BFLOAT16, BFLOAT16)),
    "linear-float16": ("narrow_linear", linear(FLOAT16, FLOAT16, torch.float32)),
    "linear-float64": ("narrow_linear", linear(torch.float64, BFLOAT16, torch.float64)),
    "linear-bare": (
        "narrow_linear",
        lambda: (integers(5), integers(4, 5, dtype=BFLOAT16), None, None, "none", torch.float32),
    ),
    "conv1d": (
        "narrow_conv",
        lambda: (
            integers(2, 3, 11, dtype=BFLOAT16), integers(4, 3, 3, dtype=BFLOAT16), integers(4), None,
            [2], [1, 0], [1], 1, "none", torch.float32,
        ),
    ),
    "conv2d": (
        "narrow_conv",
        lambda: (
            integers(2, 4, 7, 6), integers(6, 2, 3, 2, dtype=FLOAT16), integers(6), integers(2, 6, 5, 6),
            [1, 1], [1, 1, 0, 1], [2, 1], 2, "relu", BFLOAT16,
        ),
    ),
}  # fmt: skip


def test_every_formula_has_a_case() -> None:
    assert set(LOW_PRECISION_FORMULAS) == {op for op, _ in CASES.values()}


@pytest.mark.parametrize(("name", "channels_last"), every(CASES))
def test_op_is_its_formula(name: str, channels_last: bool) -> None:
    op, arguments, expected = made(CASES[name], LOW_PRECISION_FORMULAS, channels_last)
    result = op(*arguments)
    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)
    check_fake(op, arguments)


def test_sums_are_rounded_once() -> None:
    """Products of bfloat16 need 16 bits; sums keep float32's."""
    x, weight = torch.full((1, 300), 1.0078125, dtype=BFLOAT16), torch.full((1, 300), 1.0078125, dtype=BFLOAT16)
    exact = 300 * 1.0078125**2
    wide = fxpress.narrow_linear(x, weight, None, None, "none", torch.float32)
    assert abs(wide.item() - exact) <= exact * 2**-20
    narrow = fxpress.narrow_linear(x, weight, None, None, "none", BFLOAT16)
    assert narrow.item() == torch.tensor(exact).to(BFLOAT16).item()
