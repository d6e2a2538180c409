"""Winograd convolution against PyTorch in float64, on both instruction-set levels."""

from dataclasses import replace

import numpy as np
import pytest
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.winograd import WinogradConv, profitable
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st


def _compare(problem, kernel, isa, compare_conv):
    transform = kernel.weights()

    def prepare(packed):
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


def test_blocks_that_do_not_divide_the_tiles(conv_problem, compare_conv):
    problem = conv_problem(batch=1, height=20, width=9, ic=16, oc=16, kernel=(3, 3))
    kernel = WinogradConv.choose(problem.shape(), Target.parse("cpu{isa=avx2,cores=2}"), 4)
    _compare(problem, replace(kernel, tiles=7, columns=4), "avx2", compare_conv)


@pytest.mark.parametrize("change", [dict(stride=(2, 1)), dict(dilation=(1, 2)), dict(kernel=(3, 1)), dict(groups=2)])
def test_other_convolutions_are_refused(change, conv_problem):
    case = dict(batch=1, height=20, width=20, ic=64, oc=64, kernel=(3, 3)) | change
    shape = conv_problem(**case).shape()
    target = Target.parse("cpu{isa=avx2}")
    assert not profitable(shape, target)
    with pytest.raises(ValueError, match=r"use DirectConv$"):
        WinogradConv.choose(shape, target)
