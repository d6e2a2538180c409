"""Common subexpressions and equal constants."""

from __future__ import annotations

import torch
from fxpress.testing import check_pass, op_counts, trace

X = torch.randn(3, 4)


def merged(function, *inputs):
    return check_pass("merge-duplicates", trace(function, *inputs))


def test_equal_calls():
    program = merged(lambda x: (x.exp() + 1) * (x.exp() + 1), X)
    assert op_counts(program) == {"exp": 1, "add": 1, "mul": 1}


def test_different_arguments_stay():
    program = merged(lambda x: x.sum(0) + x.sum(0, keepdim=True), X)
    assert op_counts(program)["sum"] == 2


def test_numbers_of_another_type_or_sign_stay():
    assert op_counts(merged(lambda x: (x * 1, x * 1.0), torch.arange(3)))["mul"] == 2
    assert op_counts(merged(lambda x: (x * 0.0, x * -0.0), X))["mul"] == 2


def test_equal_constants():
    a, b, c = torch.ones(3, 4), torch.ones(3, 4), torch.ones(4)
    program = merged(lambda x: x + a + b + c, X)
    assert len(program.constants) == 2


def test_constants_that_differ_in_one_element_or_a_sign_stay():
    a, b = torch.zeros(1000), torch.zeros(1000)
    b[501] = -0.0
    assert len(merged(lambda x: x / a + x / b, torch.randn(1000)).constants) == 2
