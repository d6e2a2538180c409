"""Winograd convolution against PyTorch in float64, on both instruction-set levels."""

from dataclasses import replace

import numpy as np
import pytest
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.winograd import WinogradConv, profitable
from fxpress.target import Target
from hypothesis import example, given
from hypothesis import strategies as st


def _compare(problem, kernel, isa, compare_conv):
    transform = kernel.transform()

    def prepare(packed):
        if transform is None:
            return packed
        transformed = np.full(transform.elements, np.nan, np.float32)
        CompiledKernel(transform, Target.parse(f"cpu{{isa={isa}}}"))(packed, transformed)
        return transformed

    compare_conv(problem, kernel, isa, prepare, tolerance=2e-6 if kernel.outputs == 4 else None)


@given(
    case=st.fixed_dictionaries(
        dict(
            batch=st.integers(1, 2),
            height=st.sampled_from([1, 7, 8, 14]),
            width=st.sampled_from([5, 8, 13]),
            ic=st.sampled_from([1, 16, 37]),
            oc=st.sampled_from([1, 24, 64]),
            activation=st.sampled_from(["none", "relu"]),
            residual=st.booleans(),
            dense=st.booleans(),
        )
    ),
    outputs=st.sampled_from([2, 4]),
    isa=st.sampled_from(["avx2", "avx512"]),
)
def test_winograd_property(case, outputs, isa, conv_problem, compare_conv):
    problem = conv_problem(**case, kernel=(3, 3), padding=(1, 1, 1, 1))
    kernel = WinogradConv.choose(problem.shape(), Target.parse(f"cpu{{isa={isa},cores=2}}"), outputs)
    _compare(problem, kernel, isa, compare_conv)


@given(
    case=st.fixed_dictionaries(
        dict(
            height=st.sampled_from([7, 14]),
            width=st.sampled_from([8, 17]),
            ic=st.sampled_from([5, 64, 200, 331]),
            oc=st.sampled_from([24, 40, 96, 100]),
            residual=st.booleans(),
        )
    ),
    tiles=st.sampled_from([3, 7, 13, 20]),
    groups=st.integers(1, 3),
    shares=st.integers(1, 3),
    weights=st.sampled_from(["load", "run"]),
    isa=st.sampled_from(["avx2", "avx512"]),
)
@example(
    case=dict(height=14, width=8, ic=200, oc=96, residual=False),
    tiles=28, groups=2, shares=1, weights="run", isa="avx512",
)  # fmt: skip
def test_every_division_of_the_work(case, tiles, groups, shares, weights, isa, conv_problem, compare_conv):
    problem = conv_problem(batch=1, **case, kernel=(3, 3), padding=(1, 1, 1, 1))
    kernel = WinogradConv.choose(problem.shape(), Target.parse(f"cpu{{isa={isa},cores=2}}"))
    panels = kernel.form.panels
    groups = -(-panels // -(-panels // groups))
    kernel = replace(kernel, tiles=tiles, columns=min(tiles, 6), groups=groups, shares=shares, weights=weights)
    _compare(problem, kernel, isa, compare_conv)


def test_weights_are_transformed_at_load_where_blocks_are_small(conv_problem):
    deep = conv_problem(batch=1, height=28, width=28, ic=512, oc=512, kernel=(3, 3)).shape()
    shallow = replace(deep, ic=64, oc=64)
    target = Target.parse("cpu{isa=avx512,cores=2,l2=2097152}")
    assert WinogradConv.choose(shallow, target).transform() is None
    transform = WinogradConv.choose(deep, target).transform()
    assert transform is not None
    assert transform.elements >= 16 * 512 * 512
    small = replace(target, l2=1 << 18)
    for shape in (deep, shallow):
        assert WinogradConv.choose(shape, small).transform() is not None


def test_groups_without_panels_are_refused(conv_problem):
    shape = conv_problem(batch=1, height=14, width=14, ic=64, oc=64, kernel=(3, 3)).shape()
    kernel = WinogradConv.choose(shape, Target.parse("cpu{isa=avx512,cores=2}"))
    with pytest.raises(ValueError, match="groups must leave panels for each, not be 3 for 2 panels"):
        replace(kernel, groups=3)


@pytest.mark.parametrize("change", [dict(stride=(2, 1)), dict(dilation=(1, 2)), dict(kernel=(3, 1)), dict(groups=2)])
def test_other_convolutions_are_refused(change, conv_problem):
    case = dict(batch=1, height=20, width=20, ic=64, oc=64, kernel=(3, 3)) | change
    shape = conv_problem(**case).shape()
    target = Target.parse("cpu{isa=avx2}")
    assert not profitable(shape, target)
    with pytest.raises(ValueError, match=r"use DirectConv$"):
        WinogradConv.choose(shape, target)
