"""Chains of views become one view or none."""

from __future__ import annotations

import torch
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st

X = torch.randn(2, 3, 4)


def composed(function, x=X):
    return check_pass("compose-views", trace(function, x))


def test_spellings():
    assert op_counts(composed(lambda x: x.unsqueeze(1).squeeze(1).flatten(1).exp())) == {"reshape": 1, "exp": 1}
    assert op_counts(composed(lambda x: x.transpose(-1, 0).exp())) == {"permute": 1, "exp": 1}


def test_there_and_back():
    assert op_counts(composed(lambda x: x.permute(2, 0, 1).permute(1, 2, 0))) == {}
    assert op_counts(composed(lambda x: x.reshape(6, 4).reshape(2, 3, 4))) == {}
    assert op_counts(composed(lambda x: x.expand(5, 2, 3, 4).expand(5, 2, 3, 4))) == {"expand": 1}


def test_permute_of_ones_is_a_reshape():
    program = composed(lambda x: x.permute(0, 2, 1).reshape(8, 3), torch.randn(8, 3, 1))
    assert op_counts(program) == {"reshape": 1}


def test_reshape_between_permutes_stays():
    program = composed(lambda x: x.permute(1, 0, 2).reshape(6, 4).permute(1, 0))
    assert op_counts(program) == {"permute": 2, "reshape": 1}


@given(
    sizes=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    orders=st.lists(st.permutations(range(3)), min_size=2, max_size=4),
)
def test_permutes_compose(sizes, orders):
    def function(x):
        for order in orders:
            x = x.permute(order)
        return x.exp()

    counts = op_counts(composed(function, torch.randn(sizes)))
    assert counts.get("permute", 0) + counts.get("reshape", 0) <= 1
