"""Constant folding: what is folded, and what would make the file grow."""

from __future__ import annotations

import torch
from fxpress.passes.canonicalize.fold_constants import FoldConstants
from fxpress.testing import check_pass, op_counts, trace

X = torch.randn(4, 4)
SMALL = 1000


def folded(function, *inputs, limit=SMALL):
    return check_pass(FoldConstants(limit=limit), trace(function, *inputs))


def test_expression_of_constants():
    w = torch.randn(4, 4)
    program = folded(lambda x: x + (w.T * 2).exp(), X)
    assert op_counts(program) == {"add": 1}
    assert list(program.constants) == ["lifted_tensor_0_folded"]


def test_mask_from_nothing():
    program = folded(lambda x: x.masked_fill(torch.arange(4)[:, None] < torch.arange(4), 0.0), X)
    assert op_counts(program) == {"where": 1}


def test_large_values_on_the_way_to_a_small_one_fold():
    program = folded(lambda x: x + torch.arange(1000.0).sum(), X)
    assert op_counts(program) == {"add": 1}


def test_result_as_large_as_what_it_replaces_folds():
    w = torch.randn(32, 32)
    program = folded(lambda x: x + w.T, torch.randn(32, 32))
    assert op_counts(program) == {"add": 1}


def test_large_broadcast_stays():
    w = torch.randn(64)
    program = folded(lambda x: x + (w * 2).expand(64, 64), torch.randn(64, 64))
    assert op_counts(program) == {"expand": 1, "add": 1}


def test_limit_lets_it_fold():
    w = torch.randn(64)
    program = folded(lambda x: x + w.expand(64, 64), torch.randn(64, 64), limit=64 * 64 * 4)
    assert op_counts(program) == {"add": 1}


def test_what_depends_on_an_input_stays():
    assert not folded(lambda x: x * 2, X).history[-1].changed
