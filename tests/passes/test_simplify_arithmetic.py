"""Cheaper spellings give the same bits, on infinities and NaN too."""

from __future__ import annotations

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace

SPECIAL = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -3.0, 6.5, 1e-30, 1e30])

CASES = {
    "square": ("expand-pow", lambda x: x**2, {"mul": 1}),
    "cube": ("expand-pow", lambda x: x**3, {"mul": 2}),
    "root": ("expand-pow", lambda x: x**0.5, {"sqrt": 1}),
    "inverse root": ("expand-pow", lambda x: x**-0.5, {"rsqrt": 1}),
    "inverse": ("expand-pow", lambda x: x**-1, {"reciprocal": 1}),
    "inverse square": ("expand-pow", lambda x: x**-2, {"mul": 1, "reciprocal": 1}),
    "other power": ("expand-pow", lambda x: x**1.5, {"pow": 1}),
    "divide by eight": ("divide-by-power-of-two", lambda x: x / 8, {"mul": 1}),
    "divide by minus a half": ("divide-by-power-of-two", lambda x: x / -0.5, {"mul": 1}),
    "divide by three": ("divide-by-power-of-two", lambda x: x / 3, {"div": 1}),
    "divide by zero": ("divide-by-power-of-two", lambda x: x / 0, {"div": 1}),
    "times minus one": ("multiply-by-minus-one", lambda x: x * -1, {"neg": 1}),
    "minus minus": ("drop-repetition", lambda x: torch.neg(-x), {}),
    "relu relu": ("drop-repetition", lambda x: x.relu().relu(), {"relu": 1}),
    "minus abs": ("drop-repetition", lambda x: -(x.abs()), {"abs": 1, "neg": 1}),
    "relu6": ("normalize-clamp", torch.nn.functional.relu6, {"clamp": 1}),
    "clamp from zero": ("normalize-clamp", lambda x: x.clamp(min=0), {"relu": 1}),
    "clamp from one": ("normalize-clamp", lambda x: x.clamp(min=1), {"clamp": 1}),
    "scalar constant": ("inline-scalar-constant", lambda x: x * torch.tensor(2.5), {"mul": 1}),
    "scalar constant on the left": ("inline-scalar-constant", lambda x: torch.tensor([2.5]) + x, {"add": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    passes, function, counts = CASES[name]
    assert op_counts(check_pass(passes, trace(function, SPECIAL))) == counts


def test_inlined_scalar_is_no_constant():
    assert not check_pass("inline-scalar-constant", trace(lambda x: x * torch.tensor(2.5), SPECIAL)).constants


def test_scalar_that_widens_the_result_stays():
    program = trace(lambda x: x * torch.tensor(2.5), torch.arange(3))
    assert check_pass("inline-scalar-constant", program).text() == program.text()


def test_constant_that_broadcasts_the_result_stays():
    program = trace(lambda x: x * torch.ones(1, 1), SPECIAL)
    assert check_pass("inline-scalar-constant", program).text() == program.text()


@pytest.mark.parametrize("exponent", [2, 3])
def test_integer_power_stays(exponent):
    assert op_counts(check_pass("expand-pow", trace(lambda x: x**exponent, torch.arange(4)))) == {"pow": 1}
