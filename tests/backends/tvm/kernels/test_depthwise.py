"""Depthwise convolution against PyTorch in float64, on both instruction-set levels."""

from dataclasses import replace

import pytest
from fxpress.backends.tvm.kernels.depthwise import DepthwiseConv
from fxpress.target import Target
from hypothesis import assume, given
from hypothesis import strategies as st


def _problem(conv_problem, channels, **case):
    return conv_problem(ic=channels, oc=channels, groups=channels, **case)


@st.composite
def problems(draw):
    """Depthwise convolutions of small, awkward sizes."""
    side, step, pad = st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]), st.integers(0, 2)
    return dict(
        channels=draw(st.sampled_from([1, 3, 16, 24, 37])),
        batch=draw(st.integers(1, 2)),
        height=draw(st.sampled_from([7, 9, 13])),
        width=draw(st.sampled_from([7, 16, 33])),
        kernel=(draw(side), draw(side)),
        stride=(draw(step), draw(step)),
        dilation=(draw(step), draw(step)),
        padding=(draw(pad), draw(pad), draw(pad), draw(pad)),
        activation=draw(st.sampled_from(["none", "relu6"])),
        residual=draw(st.booleans()),
        dense=draw(st.booleans()),
    )


@given(case=problems(), isa=st.sampled_from(["avx2", "avx512"]))
def test_depthwise_property(case, isa, conv_problem, compare_conv):
    problem = _problem(conv_problem, **case)
    assume(min(problem.output) > 0)
    compare_conv(problem, DepthwiseConv.choose(problem.shape(), Target.parse(f"cpu{{isa={isa},cores=2}}")), isa)


@pytest.mark.parametrize(("kernel", "pad"), [((5, 5), (2, 2, 2, 2)), ((7, 7), (3, 3, 3, 3)), ((1, 17), (0, 0, 8, 8))])
def test_wide_kernels(kernel, pad, isa, conv_problem, compare_conv):
    problem = _problem(conv_problem, 40, batch=1, height=9, width=20, kernel=kernel, padding=pad)
    compare_conv(problem, DepthwiseConv.choose(problem.shape(), Target.parse(f"cpu{{isa={isa},cores=2}}")), isa)


@pytest.mark.parametrize(
    "tile",
    [
        dict(columns=3, rows=2, vectors=2),
        dict(columns=5, rows=4, vectors=1, lines=2),
        dict(columns=4, rows=3, lines=3),
    ],
)
def test_every_tile_computes_the_same(tile, conv_problem, compare_conv):
    problem = _problem(conv_problem, 44, batch=2, height=7, width=11, kernel=(3, 3), padding=(1, 1, 1, 1))
    kernel = DepthwiseConv.choose(problem.shape(), Target.parse("cpu{isa=avx2,cores=2}"))
    compare_conv(problem, replace(kernel, tile=replace(kernel.tile, **tile)), "avx2")


def test_other_groups_are_an_error(conv_problem):
    shape = conv_problem(batch=1, height=9, width=7, ic=8, oc=8, groups=4, kernel=(3, 3)).shape()
    with pytest.raises(ValueError, match=r"^shape must have groups == ic == oc, not .*; use DirectConv$"):
        DepthwiseConv.choose(shape, Target.parse("cpu{isa=avx2}"))
