"""Padding before convolutions and pools becomes theirs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st

W = torch.randn(4, 3, 3, 3)
X = torch.randn(1, 3, 8, 7)
CONV = "normalize-conv,pad-into-conv"
POOL = "normalize-pool,pad-into-avg-pool,pad-into-max-pool"


def run(passes, function, x=X):
    return op_counts(check_pass(passes, trace(function, x)))


@given(pads=st.lists(st.integers(0, 3), min_size=4, max_size=4), padding=st.integers(0, 1))
def test_conv(pads, padding):
    counts = run(f"drop-identity,{CONV}", lambda x: F.conv2d(F.pad(x, pads), W, padding=padding))
    assert counts == {"conv": 1}


def test_sides_come_first_dim_first():
    program = check_pass(CONV, trace(lambda x: F.conv2d(F.pad(x, (1, 2, 3, 4)), W, padding=1), X))
    assert program.results[0].args[5] == [4, 5, 2, 3]


def test_one_dimension():
    weight = W[:, :, 0].clone()
    counts = run(CONV, lambda x: F.conv1d(F.pad(x, (4, 0)), weight, dilation=2), torch.randn(2, 3, 9))
    assert counts["conv"] == 1
    assert "constant_pad_nd" not in counts


CONV_KEEPS = {
    "value": lambda x: F.conv2d(F.pad(x, (1, 1), value=1.0), W),
    "crop": lambda x: F.conv2d(F.pad(x, (-1, 1)), W),
    "channels": lambda x: F.conv2d(F.pad(x, (0, 0, 0, 0, 0, 1)), torch.ones(2, 4, 1, 1)),
    "batch": lambda x: F.conv2d(F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0)), W),
}


@pytest.mark.parametrize("name", CONV_KEEPS)
def test_conv_keeps(name):
    program = check_pass(CONV, trace(CONV_KEEPS[name], X))
    assert op_counts(program)["constant_pad_nd"] == 1
    assert program.history[-1].skipped


POOLS = {
    "average": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2),
    "average that has padding": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 5, 2, 1),
    "maximum of -inf": lambda x: F.max_pool2d(F.pad(x, (1, 1, 0, 0), value=-float("inf")), 3, 2),
    "maximum after relu": lambda x: F.max_pool2d(F.pad(x.relu(), (1, 1, 1, 1)), 3, 2),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name):
    assert "constant_pad_nd" not in run(POOL, POOLS[name])


POOLS_KEEP = {
    "one side": lambda x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2),
    "more than half the window": lambda x: F.avg_pool2d(F.pad(x, (2, 2)), 3, 2),
    "average that does not count its padding": lambda x: F.avg_pool2d(
        F.pad(x, (1, 1, 1, 1)), 5, 2, 1, count_include_pad=False
    ),
    "average rounded up": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2, ceil_mode=True),
    "maximum of signed values": lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2),
    "value": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=2.0), 3, 2),
}


@pytest.mark.parametrize("name", POOLS_KEEP)
def test_pools_keep(name):
    assert "constant_pad_nd" in run(POOL, POOLS_KEEP[name])
