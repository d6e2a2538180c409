"""Padding masks are reduced to a view of what the caller passes."""

import torch
from fxpress.testing import check_pass, op_counts, trace

MASK = torch.rand(2, 5) > 0.5
ROWS, COLUMNS = torch.arange(2), torch.arange(5)


def test_index_of_everything_in_order_is_a_reshape():
    before = trace(lambda x: x[ROWS[:, None, None, None], COLUMNS[None, None, None, :]], MASK)
    after = check_pass("fold-constants,index-as-view", before)
    assert op_counts(after) == {"reshape": 1}


def test_other_indices_stay():
    for index in (COLUMNS.flip(0), COLUMNS[:4], torch.tensor([0, 1, 2, 3, 3])):
        after = check_pass("fold-constants,index-as-view", trace(lambda x, i=index: x[:, i], MASK))
        assert op_counts(after) == {"index": 1}


def test_computed_indices_stay():
    after = check_pass("index-as-view", trace(lambda x, i: x[i], MASK, ROWS))
    assert op_counts(after) == {"index": 1}


def test_and_true():
    true = torch.ones(3, 1, 1, dtype=torch.bool)
    after = check_pass("fold-constants,drop-and-true", trace(lambda x: (true & x, x & true[0]), MASK))
    assert op_counts(after) == {"expand": 1}


def test_and_with_anything_else_stays():
    some = torch.tensor([True, True, False, True, True])
    after = check_pass("drop-and-true", trace(lambda x: x & some, MASK))
    assert op_counts(after) == {"bitwise_and": 1}
    after = check_pass("drop-and-true", trace(lambda x: x & torch.tensor(-1), torch.arange(3)))
    assert op_counts(after) == {"bitwise_and": 1}
