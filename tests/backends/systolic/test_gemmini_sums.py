"""Residual sums become sums that Gemmini computes to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress import Program
from fxpress.backends.systolic.gemmini import gemmini_sums
from fxpress.backends.systolic.gemmini.sums import common_scale, exact_sum
from fxpress.ops import fxpress
from fxpress.pass_manager import PassManager
from fxpress.testing import op_counts
from gemmini_host import check_c, conv_of, program_of, random_int8
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SHAPE = (2, 7, 7, 4)


def residual_conv(residual_scale: float, y_scale: float, **changed: Any) -> Program:
    """conv(x) + r"""

    torch.manual_seed(1)
    return program_of(conv_of(4, 4, padding=1, residual_scale=residual_scale, y_scale=y_scale, **changed), SHAPE, SHAPE)


def sum_of(a: float, b: float, y: float, **changed: Any) -> Program:
    """a + b"""
    v = {"a_zero": 0, "b_zero": 0, "y_zero": 0, "low": 0, "high": 127, "mode": "F", **changed}

    def function(p: Tensor, q: Tensor) -> Tensor:
        rest = (v["a_zero"], b, v["b_zero"], y, v["y_zero"], v["low"], v["high"], v["mode"])
        return fxpress.quantized_add(p, q, a, *rest)

    return program_of(function, SHAPE, SHAPE)


def rewritten(program: Program) -> Program:
    """After the pass, which a second run leaves as it is."""
    after = PassManager([gemmini_sums]).run(program)
    assert PassManager([gemmini_sums]).run(after).text() == after.text()
    return after


def close(before: Program, after: Program) -> bool:
    """Whether results differ by roundings of the operands: one step of the larger scale each, one of the result."""
    (wanted,), (found,) = before.run_flat(*before.example_inputs), after.run_flat(*before.example_inputs)
    return int((wanted.int() - found.int()).abs().max()) <= 2


@pytest.mark.parametrize("scales", [(0.4, 0.5), (0.5, 0.4), (0.5, 0.5)])
@pytest.mark.parametrize("low", [0, -128])
def test_convolutions(scales: tuple[float, float], low: int, tmp_path: Path) -> None:
    before = residual_conv(*scales, low=low)
    after = rewritten(before)
    counts = {"quantized_conv": 1, "quantized_add": 1}
    assert op_counts(after) == (counts | {"requantize": 1} if scales[0] < scales[1] else counts)
    assert close(before, after)
    assert "tiled_resadd_auto" in check_c(after, tmp_path)


def test_linear_layers(tmp_path: Path) -> None:
    weight, bias, scale = random_int8(5, 6).clamp(min=-127), torch.zeros(5, dtype=torch.int32), torch.full((5,), 0.01)

    def linear(x: Tensor, r: Tensor) -> Tensor:
        return fxpress.quantized_linear(x, weight, bias, r, scale, 0.3, 0, 3.0, 0, 5.0, 0, -128, 127, "F")

    before = program_of(linear, (3, 6), (3, 5))
    after = rewritten(before)
    assert op_counts(after) == {"quantized_linear": 1, "requantize": 1, "quantized_add": 1}
    assert close(before, after)
    assert "tiled_resadd_auto" in check_c(after, tmp_path)


def test_sums_of_unlike_scales(tmp_path: Path) -> None:
    before = sum_of(0.011, 0.031, 0.029)
    after = rewritten(before)
    assert op_counts(after) == {"requantize": 1, "quantized_add": 1}
    assert close(before, after)
    text = check_c(after, tmp_path)
    assert "tiled_resadd_auto" in text
    assert "saturate" not in text


@pytest.mark.parametrize(
    "program",
    [
        lambda: sum_of(0.02, 0.02, 0.03),
        lambda: sum_of(0.02, 0.03, 0.03),
        lambda: sum_of(0.02, 0.05, 0.03, a_zero=1),
        lambda: sum_of(0.02, 0.05, 0.03, y_zero=1),
        lambda: sum_of(0.02, 0.05, 0.03, mode="I"),
        lambda: residual_conv(0.4, 0.5, residual_zero=1),
        lambda: residual_conv(0.4, 0.5, mode="I"),
        lambda: program_of(conv_of(4, 4), SHAPE),
        lambda: program_of(
            lambda p, q: fxpress.quantized_add(p, q, 0.02, 0, 0.05, 0, 0.03, 0, 0, 127, "F"), (2, 3), (3,)
        ),
    ],
    ids=["equal scales", "exact", "a_zero", "y_zero", "mode", "residual_zero", "mode of conv", "plain", "broadcast"],
)
def test_left_alone(program: Any) -> None:
    before = program()
    assert rewritten(before).text() == before.text()


@given(r=st.floats(1e-3, 10), y=st.floats(1e-3, 10), low=st.sampled_from([0, -128]))
def test_a_common_scale_makes_sums_exact(r: float, y: float, low: int) -> None:
    common = common_scale((r,), y, low)
    assert max(r, y) <= common <= max(r, y) * (1 + 1e-5)
    x = np.arange(-128, 128, dtype=np.float32)
    product = x * np.float32(common / y)
    wanted = np.clip(np.rint(product[:, None] + product[None, :]), low, 127)
    found = np.clip(np.rint((x[:, None] + x[None, :]).clip(-256, 254) * np.float32(common / y)), low, 127)
    assert (wanted == found).all()


def test_exactness_is_tried_on_all_operands() -> None:
    (inexact,) = (node for node in sum_of(0.011, 0.031, 0.029).nodes if node.op == "call_function")
    (exact,) = (node for node in sum_of(0.011, 0.029, 0.029).nodes if node.op == "call_function")
    assert exact_sum(inexact, mvin_scale=True) is None
    found = exact_sum(exact, mvin_scale=True)
    assert found is not None
    assert (found.a_scale, found.b_scale, found.scale) == (0.011 / 0.029, 1.0, 1.0)
    assert exact_sum(exact, mvin_scale=False) is None
