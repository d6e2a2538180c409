"""x * 1, x + 0, ...: gone when the type stays, kept when it would change. More cases are in test_drop_no_op.py."""

from __future__ import annotations

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace

SAME = (lambda x: x * 1, lambda x: x / 1, lambda x: x + 0, lambda x: x - 0, lambda x: x**1)


@pytest.mark.parametrize("function", SAME)
def test_fires(function):
    assert op_counts(check_pass("drop-identity", trace(lambda x: function(x).relu(), torch.randn(5)))) == {"relu": 1}


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: x * 2, torch.randn(5)),
        (lambda x: x * 1.0, torch.arange(5)),
        (lambda x: x / 1, torch.arange(5)),
        (lambda x: x + torch.zeros(2, 5), torch.randn(5)),
    ],
    ids=["another number", "promoted", "integer division", "broadcast"],
)
def test_does_not_fire(function, x):
    program = trace(function, x)
    assert check_pass("drop-identity", program).text() == program.text()
