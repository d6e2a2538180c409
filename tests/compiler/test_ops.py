"""Every fxpress:: op against its formula, in both orders, and its fake against what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.ops import fxpress
from op_cases import Case, check_fake, every, made
from op_formulas import FORMULAS, LOW_PRECISION_FORMULAS
from quantized_formulas import QUANTIZED_FORMULAS
from sparse_formulas import SPARSE_FORMULAS
from torch import Tensor


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# op, and its arguments with channels first, without channels_last
CASES: dict[str, Case] = {
    "conv1d": ("conv", lambda: (randn(2, 3, 11), randn(4, 3, 3), randn(4), None, [2], [1, 0], [1], 1, "none")),
    "conv2d": (
        "conv",
        lambda: (randn(2, 4, 7, 6), randn(6, 2, 3, 2), randn(6), None, [1, 2], [1, 0, 2, 1], [2, 1], 2, "relu"),
    ),
    "conv2d-depthwise": (
        "conv",
        lambda: (
            randn(1, 4, 5, 5),
            randn(4, 1, 3, 3),
            None,
            randn(1, 4, 5, 5),
            [1, 1],
            [1] * 4,
            [1, 1],
            4,
            "leaky_relu(0.1)",
        ),
    ),
    "conv_transpose1d": (
        "conv_transpose",
        lambda: (randn(2, 3, 5), randn(3, 4, 3), randn(4), [2], [1], [1], [1], 1, "none"),
    ),
    "conv_transpose2d": (
        "conv_transpose",
        lambda: (randn(1, 4, 4, 3), randn(4, 3, 3, 2), None, [2, 1], [1, 0], [1, 0], [1, 2], 2, "relu"),
    ),
    "linear": ("linear", lambda: (randn(2, 3, 5), randn(4, 5), randn(4), randn(2, 3, 4), "relu")),
    "linear-bare": ("linear", lambda: (randn(5), randn(4, 5), None, None, "none")),
    "max_pool1d": ("max_pool", lambda: (randn(2, 3, 11), [3], [2], [1], [2], False)),
    "max_pool2d": ("max_pool", lambda: (randn(2, 3, 8, 7), [3, 2], [2, 1], [1, 0], [1, 2], False)),
    "max_pool3d": ("max_pool", lambda: (randn(1, 2, 5, 6, 4), [2, 3, 2], [2, 1, 1], [1, 0, 1], [1, 1, 2], False)),
    "avg_pool1d": ("avg_pool", lambda: (randn(2, 3, 11), [3], [2], [1], False, True, None)),
    "avg_pool2d": ("avg_pool", lambda: (randn(2, 3, 8, 7), [3, 2], [2, 1], [1, 1], False, False, None)),
    "avg_pool2d-divisor": ("avg_pool", lambda: (randn(2, 3, 8, 7), [3, 2], [2, 1], [1, 1], False, True, 5)),
    "avg_pool3d": ("avg_pool", lambda: (randn(1, 2, 5, 6, 4), [2, 3, 2], [2, 1, 1], [1, 0, 1], False, False, None)),
    "adaptive_avg_pool1d": ("adaptive_avg_pool", lambda: (randn(2, 3, 10), [4])),
    "adaptive_avg_pool2d": ("adaptive_avg_pool", lambda: (randn(2, 3, 7, 5), [3, 5])),
    "adaptive_avg_pool3d": ("adaptive_avg_pool", lambda: (randn(1, 2, 5, 6, 4), [3, 4, 1])),
    "adaptive_max_pool1d": ("adaptive_max_pool", lambda: (randn(2, 3, 10), [4])),
    "adaptive_max_pool2d": ("adaptive_max_pool", lambda: (randn(2, 3, 7, 5), [3, 1])),
    "adaptive_max_pool3d": ("adaptive_max_pool", lambda: (randn(1, 2, 5, 6, 4), [3, 4, 1])),
    "resize-nearest1d": ("resize", lambda: (randn(2, 3, 5), [8], None, "nearest", False)),
    "resize-nearest2d": ("resize", lambda: (randn(2, 3, 5, 4), [3, 8], [0.6, 2.0], "nearest", False)),
    "resize-nearest3d": ("resize", lambda: (randn(1, 2, 3, 4, 5), [5, 3, 8], None, "nearest", False)),
    "resize-nearest-exact": ("resize", lambda: (randn(2, 3, 5, 4), [3, 8], None, "nearest-exact", False)),
    "resize-trilinear": ("resize", lambda: (randn(1, 2, 3, 4, 5), [5, 3, 8], None, "trilinear", False)),
    "resize-linear": ("resize", lambda: (randn(2, 3, 5), [9], None, "linear", True)),
    "resize-bilinear": ("resize", lambda: (randn(2, 3, 5, 6), [8, 4], None, "bilinear", False)),
    "resize-bilinear-scales": ("resize", lambda: (randn(2, 3, 5, 6), [7, 9], [1.5, 1.6], "bilinear", False)),
    "resize-bilinear-corners": ("resize", lambda: (randn(2, 3, 5, 6), [8, 4], None, "bilinear", True)),
    "resize-bicubic": ("resize", lambda: (randn(2, 3, 5, 6), [9, 4], None, "bicubic", False)),
    "attention": (
        "attention",
        lambda: (randn(2, 4, 3, 5), randn(2, 4, 6, 5), randn(2, 4, 6, 5), randn(2, 1, 3, 6), None, 0.3, False),
    ),
    "attention-filled": (
        "attention",
        lambda: (randn(2, 4, 3, 5), randn(2, 2, 6, 5), randn(2, 2, 6, 5), randn(3, 6) > 0, -7.0, 0.3, True),
    ),
    "group_norm": ("group_norm", lambda: (randn(2, 6, 4, 3), 3, randn(6), randn(6), 1e-3)),
    "group_norm-bare": ("group_norm", lambda: (randn(2, 6, 5), 2, None, None, 1e-5)),
}


EVERY = every(CASES)


def test_every_op_has_a_formula() -> None:
    names = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("fxpress::")
    }
    expected = (FORMULAS, LOW_PRECISION_FORMULAS, QUANTIZED_FORMULAS, SPARSE_FORMULAS)
    assert names == {op for formulas in expected for op in formulas}


def test_every_formula_has_a_case() -> None:
    assert set(FORMULAS) == {op for op, _ in CASES.values()}


@pytest.mark.parametrize(("name", "channels_last"), EVERY)
def test_op_is_its_formula(name: str, channels_last: bool) -> None:
    op, arguments, expected = made(CASES[name], FORMULAS, channels_last)
    torch.testing.assert_close(op(*arguments), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "channels_last"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fake_agrees_in_shape_dtype_and_strides(name: str, channels_last: bool, dtype: torch.dtype) -> None:
    op, arguments, _ = made(CASES[name], FORMULAS, channels_last)
    arguments = tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)
    check_fake(op, arguments)
    assert op(*arguments).dtype == dtype


@pytest.mark.parametrize(("name", "channels_last"), EVERY)
def test_opcheck(name: str, channels_last: bool) -> None:
    op, arguments, _ = made(CASES[name], FORMULAS, channels_last)
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "group_norm", "resize-bilinear"])
def test_channels_last_results_are_dense(name: str) -> None:
    op, arguments, _ = made(CASES[name], FORMULAS, True)
    assert op(*arguments).is_contiguous()


def test_ceil_mode_adds_a_last_window() -> None:
    x = randn(1, 2, 6)
    for op, rest in ((fxpress.max_pool, ([0], [1])), (fxpress.avg_pool, ([0],))):
        options = (False, None) if op is fxpress.avg_pool else ()
        assert op(x, [3], [2], *rest, False, *options, False).shape == (1, 2, 2)
        assert op(x, [3], [2], *rest, True, *options, False).shape == (1, 2, 3)


def test_a_row_that_attends_to_nothing_is_nan() -> None:
    query, key = randn(1, 1, 2, 4), randn(1, 1, 3, 4)
    mask = torch.tensor([[0.0, 0.0, 0.0], [-math.inf] * 3], dtype=torch.float64)
    result = fxpress.attention(query, key, key, mask, None, 1.0, False)
    assert not result[0, 0, 0].isnan().any()
    assert result[0, 0, 1].isnan().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fxpress.linear(randn(2, 3), randn(4, 3), None, None, "swish"),
            InvalidInput,
            r"^activation must be one",
        ),
        (lambda: fxpress.linear(randn(2, 3), randn(4, 5), None, None, "none"), RuntimeError, r"shapes cannot be multi"),
        (lambda: fxpress.linear(randn(2, 3), randn(4, 3)), RuntimeError, r"missing value for argument 'bias'"),
        (
            lambda: fxpress.resize(randn(1, 1, 4), [8], None, "area", False, False),
            ValueError,
            r"^resize mode must be .*'area'",
        ),
        (
            lambda: fxpress.group_norm(randn(1, 6, 4), 4, None, None, 1e-5, False),
            RuntimeError,
            r"divisible by num_groups",
        ),
        (lambda: fxpress.adaptive_avg_pool(randn(1, 6, 4), "4", False), RuntimeError, r"Expected a value of type"),
        (
            lambda: fxpress.conv(randn(1, 3, 5), randn(4, 2, 3), None, None, [1], [0, 0], [1], 1, "none", False),
            RuntimeError,
            r"expected input\[1, 3, 5\] to have 2 channels",
        ),
    ],
)
def test_wrong_arguments(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
