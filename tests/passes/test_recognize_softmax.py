"""Softmax written out."""

from __future__ import annotations

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace

X = torch.randn(2, 3, 5)
X[0, 0, 1:3] = -float("inf")
X[1, 1] = -float("inf")


def softmax(x, maximum, dim):
    e = torch.exp(x - maximum)
    return e / e.sum(dim, keepdim=True)


@pytest.mark.parametrize("dim", [-1, 1])
def test_softmax(dim):
    by_max = check_pass("recognize-softmax", trace(lambda x: softmax(x, x.max(dim, keepdim=True)[0], dim), X))
    by_amax = check_pass("recognize-softmax", trace(lambda x: softmax(x, x.amax(dim, keepdim=True), dim), X))
    assert op_counts(by_max) == op_counts(by_amax) == {"softmax": 1}


OTHERS = {
    "other dims": lambda x: softmax(x, x.amax(1, keepdim=True), -1),
    "no maximum": lambda x: softmax(x, 0, -1),
    "two dims": lambda x: softmax(x, x.amax((1, 2), keepdim=True), (1, 2)),
    "exponential used": lambda x: (softmax(x, x.amax(-1, keepdim=True), -1), torch.exp(x - x.amax(-1, True)).sum()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay(name):
    program = check_pass("merge-duplicates", trace(OTHERS[name], torch.randn(2, 3, 5)))
    assert check_pass("recognize-softmax", program).text() == program.text()


def test_a_number_has_no_dims_to_count():
    program = trace(lambda x: softmax(x, x.amax(0, keepdim=True), 0), torch.tensor(1.5))
    assert check_pass("recognize-softmax", program).text() == program.text()
