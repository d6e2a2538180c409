"""Pools of 8-bit integers, compiled: equal to their definition in every bit."""

import pytest
import torch
from fxpress.ops import fxpress
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_cases import TARGETS, VALUES, integers
from single_op import check_all, check_equal


def max_pool(shape, kernel, stride, padding, *, dilation=1, ceil=False, last=True, values="random"):
    arguments = {
        "x": image(shape, last, values),
        "kernel": list(kernel),
        "stride": [stride] * len(kernel),
        "padding": list(padding),
        "dilation": [dilation] * len(kernel),
        "ceil_mode": ceil,
        "channels_last": last,
    }
    return fxpress.quantized_max_pool.default, arguments


def avg_pool(
    shape, kernel, stride, padding, *, ceil=False, last=True, values="random", mode="F", high=127, y_scale=0.02
):
    arguments = {
        "x": image(shape, last, values),
        "kernel": list(kernel),
        "stride": [stride] * len(kernel),
        "padding": list(padding),
        "ceil_mode": ceil,
        "x_scale": 0.05,
        "x_zero": -23,
        "y_scale": y_scale,
        "y_zero": 7,
        "low": -128,
        "high": high,
        "mode": mode,
        "channels_last": last,
    }
    return fxpress.quantized_avg_pool.default, arguments


def image(shape, last, values):
    n, c, *spatial = shape
    return integers((n, *spatial, c) if last else shape, values)


CASES = [
    max_pool((1, 64, 8, 8), (3, 3), 2, (1, 1)),
    max_pool((2, 70, 7, 5), (2, 3), 1, (1, 1), dilation=2, ceil=True),
    max_pool((1, 5, 9, 9), (3, 3), 2, (1, 1), last=False, values="lowest"),
    max_pool((1, 20, 11), (5,), 3, (2,), ceil=True),
    avg_pool((1, 96, 7, 7), (7, 7), 1, (0, 0)),
    avg_pool((1, 130, 5, 6), (3, 2), 2, (1, 1), ceil=True, high=60, values="highest"),
    avg_pool((2, 6, 5, 9), (2, 2), 2, (0, 1), last=False, values="lowest"),
    avg_pool((1, 3, 12), (4,), 1, (2,), mode="I"),
    avg_pool((1, 40, 4, 4), (4, 4), 4, (0, 0), mode="I", high=90),
]


@pytest.mark.parametrize("target", TARGETS)
def test_cases(target):
    check_all(CASES, target)


@st.composite
def cases(draw):
    """Pools of small, awkward sizes."""
    rank = draw(st.sampled_from([1, 2]))
    kernel = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    shape = [
        draw(st.integers(1, 2)),
        draw(st.sampled_from([1, 7, 33, 64])),
        *(k + draw(st.integers(1, 6)) for k in kernel),
    ]
    shared = {"ceil": draw(st.booleans()), "last": draw(st.booleans()), "values": draw(st.sampled_from(VALUES))}
    stride = draw(st.integers(1, 3))
    if draw(st.booleans()):
        return max_pool(shape, kernel, stride, padding, **shared)
    # scales that are powers of two apart make ties
    return avg_pool(shape, kernel, stride, padding, mode=draw(st.sampled_from("FI")), y_scale=0.025, **shared)


@given(case=cases(), target=st.sampled_from(TARGETS))
@settings(max_examples=6)
def test_property(case, target):
    check_equal(*case, target)


def test_padding_never_wins_a_maximum():
    x = integers((1, 4, 4, 16), "lowest")
    op, arguments = max_pool((1, 16, 4, 4), (3, 3), 1, (1, 1))
    check_equal(op, {**arguments, "x": x})
    assert torch.equal(op(*{**arguments, "x": x}.values()), x)
