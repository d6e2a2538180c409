"""Scales and shifts around convolutions and linear layers go into their constants."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

torch.manual_seed(0)
CONV, GROUPED, UP = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.ConvTranspose2d(4, 6, 3, groups=2)
LINEAR = nn.Linear(4, 6)
PER_CHANNEL, VECTOR, INPUT = torch.randn(6, 1, 1), torch.randn(6), torch.randn(4)
IMAGE, ROWS = torch.randn(2, 4, 5, 6), torch.randn(2, 3, 4)
AFTER, BEFORE = "normalize-conv,normalize-linear,fold-affine", "normalize-conv,normalize-linear,fold-scale-before"


def run(passes, function, x):
    return op_counts(check_pass(passes, trace(function, x)))


FOLDS = {
    "conv * channel": (AFTER, lambda x: CONV(x) * PER_CHANNEL, IMAGE),
    "channel + conv": (AFTER, lambda x: PER_CHANNEL + GROUPED(x), IMAGE),
    "conv - channel": (AFTER, lambda x: CONV(x) - PER_CHANNEL, IMAGE),
    "conv / number": (AFTER, lambda x: GROUPED(x) / 3, IMAGE),
    "transposed": (AFTER, lambda x: UP(x) * PER_CHANNEL + PER_CHANNEL, IMAGE),
    "linear * vector + vector": (AFTER, lambda x: LINEAR(x) * VECTOR + VECTOR, ROWS),
    "linear of number * x": (BEFORE, lambda x: LINEAR(x * 0.3), ROWS),
    "linear of x * vector": (BEFORE, lambda x: LINEAR(x * INPUT), ROWS),
    "linear of x / number": (BEFORE, lambda x: LINEAR(x / 3), ROWS),
    "conv of x * channel": (BEFORE, lambda x: F.conv2d(x * INPUT[:, None, None], CONV.weight, padding=1), IMAGE),
    "two layers of one product": (BEFORE, lambda x: LINEAR(x * 3), ROWS),
}


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name):
    counts = run("fold-constants," + FOLDS[name][0], *FOLDS[name][1:])
    assert sum(counts.values()) == 1


STAY = {
    "along the width": (AFTER, lambda x: CONV(x) * torch.ones(4), IMAGE),
    "full size": (AFTER, lambda x: CONV(x) * torch.ones(6, 3, 4), IMAGE),
    "number - conv": (AFTER, lambda x: 1 - CONV(x), IMAGE),
    "used twice": (AFTER, lambda x: (CONV(x) * 2, CONV(x)), IMAGE),
    "after an activation": (AFTER, lambda x: CONV(x).relu() * 2, IMAGE),
    "by a computed value": (AFTER, lambda x: CONV(x) * x.mean(), IMAGE),
    "product used elsewhere": (BEFORE, lambda x: (LINEAR(x * 3), x * 3), ROWS),
    "product along other dims": (BEFORE, lambda x: LINEAR(x * torch.ones(3, 1)), ROWS),
    "grouped by channel": (BEFORE, lambda x: GROUPED(x * INPUT[:, None, None]), IMAGE),
}


@pytest.mark.parametrize("name", STAY)
def test_stays(name):
    passes, function, x = STAY[name]
    program = check_pass("fold-constants,merge-duplicates," + passes, trace(function, x))
    assert not program.history[-1].changed


def test_shared_product_vanishes_into_all_its_layers():
    assert run(BEFORE, lambda x: ((y := x * 3), LINEAR(y), F.linear(y, LINEAR.weight))[1:], ROWS) == {"linear": 2}


@given(channels=st.integers(1, 7), scale=st.floats(-4, 4), rank=st.integers(1, 3))
def test_shapes(channels, scale, rank):
    linear, vector = nn.Linear(3, channels), torch.randn([1] * (rank - 1) + [channels])
    counts = run(AFTER, lambda x: (linear(x) + vector) * scale, torch.randn(2, 2, 2, 3))
    assert counts == {"linear": 1}
