"""Interpolation in one spelling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st


def normalized(shape=(1, 2, 6, 5), **options):
    return check_pass("normalize-resize", trace(lambda x: F.interpolate(x, **options), torch.randn(shape)))


def resize(program):
    return next(node for node in program.nodes if node.target is torch.ops.fxpress.resize.default)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("options", [{"size": (4, 9)}, {"scale_factor": 2}, {"scale_factor": 1.7}])
def test_modes(mode, options):
    assert resize(normalized(mode=mode, **options)).args[3] == mode


def test_one_dimension():
    assert resize(normalized((1, 2, 6), mode="linear", scale_factor=2)).args[1] == [12]


def test_scales_go_where_they_are_the_ratio_of_sizes():
    assert resize(normalized(mode="bilinear", scale_factor=2)).args[2] is None
    assert resize(normalized(mode="bilinear", scale_factor=1.7)).args[2] == [1.7, 1.7]
    assert resize(normalized(mode="bilinear", scale_factor=1.7, align_corners=True)).args[2] is None


def test_nearest_exact_by_a_whole_factor_is_nearest():
    assert resize(normalized(mode="nearest-exact", scale_factor=3)).args[3] == "nearest"


@pytest.mark.parametrize("options", [{"scale_factor": 1.7}, {"size": (9, 10)}, {"size": (3, 5)}])
def test_nearest_exact_by_another_factor_says_so(options):
    assert resize(normalized(mode="nearest-exact", **options)).args[3] == "nearest-exact"


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "trilinear"])
def test_three_dimensions(mode):
    program = normalized((1, 2, 3, 4, 5), mode=mode, size=(5, 4, 7))
    assert resize(program).args[3] == mode


@given(
    before=st.integers(1, 13), scale=st.floats(0.5, 4), mode=st.sampled_from(["nearest", "nearest-exact", "bilinear"]),
    align=st.booleans(),
)  # fmt: skip
def test_scales(before, scale, mode, align):
    if int(before * scale) < 1:
        return
    options = {"align_corners": align} if mode == "bilinear" else {}
    program = normalized((1, 1, before, before), mode=mode, scale_factor=scale, **options)
    assert op_counts(program) == {"resize": 1}
