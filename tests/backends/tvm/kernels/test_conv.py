"""Direct convolution against PyTorch in float64, on both instruction-set levels."""

from dataclasses import replace

import pytest
import torch
from fxpress.backends.tvm.kernels.base import Call, run_module
from fxpress.backends.tvm.kernels.conv import DirectConv
from fxpress.backends.tvm.kernels.harness import build
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

CASES = {
    "pointwise": dict(batch=1, height=9, width=7, ic=24, oc=40, kernel=(1, 1)),
    "pointwise-batch": dict(batch=3, height=5, width=5, ic=17, oc=32, kernel=(1, 1), residual=True),
    "square": dict(batch=1, height=14, width=15, ic=16, oc=33, kernel=(3, 3), padding=(1, 1, 1, 1), activation="relu"),
    "stem": dict(batch=1, height=23, width=23, ic=3, oc=32, kernel=(3, 3), stride=(2, 2), padding=(0, 1, 0, 1)),
    "strided-views": dict(
        batch=2, height=8, width=9, ic=5, oc=19, kernel=(3, 2), padding=(1, 0, 0, 1), residual=True, dense=False
    ),
    "dilated": dict(batch=1, height=11, width=12, ic=8, oc=8, kernel=(3, 3), dilation=(2, 3), activation="relu6"),
    "grouped": dict(batch=2, height=6, width=6, ic=12, oc=18, kernel=(3, 3), groups=3, padding=(1, 1, 1, 1)),
    "one-channel-groups": dict(batch=1, height=6, width=6, ic=6, oc=6, kernel=(3, 3), groups=6),
    "line": dict(batch=2, height=1, width=50, ic=20, oc=16, kernel=(1, 3), stride=(1, 2), padding=(0, 0, 1, 1)),
    "one-pixel": dict(batch=1, height=1, width=1, ic=1, oc=1, kernel=(1, 1), activation="silu"),
    "small-square": dict(batch=1, height=7, width=7, ic=64, oc=64, kernel=(3, 3), padding=(1, 1, 1, 1)),
    "projection": dict(batch=1, height=14, width=14, ic=24, oc=48, kernel=(1, 1), stride=(2, 2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_direct_conv_matches_pytorch(case, isa, conv_problem, compare_conv):
    problem = conv_problem(**case)
    compare_conv(problem, DirectConv.choose(problem.shape(), Target.parse(f"cpu{{isa={isa},cores=2}}")), isa)


@st.composite
def problems(draw):
    """Convolutions of small, awkward sizes."""
    side = st.sampled_from([1, 2, 3])
    kernel, dilation = (draw(side), draw(side)), (draw(side), draw(side))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    pad = st.integers(0, 2)
    return dict(
        batch=draw(st.integers(1, 2)),
        height=draw(st.sampled_from([7, 8, 13])),
        width=draw(st.sampled_from([7, 10, 17])),
        ic=groups * draw(st.sampled_from([1, 4, 7])),
        oc=groups * draw(st.sampled_from([1, 6, 16, 37, 64])),
        kernel=kernel,
        stride=(draw(side), draw(side)),
        dilation=dilation,
        padding=(draw(pad), draw(pad), draw(pad), draw(pad)),
        groups=groups,
        activation=draw(st.sampled_from(["none", "relu"])),
        residual=draw(st.booleans()),
        dense=draw(st.booleans()),
    )


@given(case=problems(), isa=st.sampled_from(["avx2", "avx512"]))
def test_direct_conv_property(case, isa, conv_problem, compare_conv):
    problem = conv_problem(**case)
    compare_conv(problem, DirectConv.choose(problem.shape(), Target.parse(f"cpu{{isa={isa},cores=2}}")), isa)


@pytest.mark.parametrize("order", ["pixels", "channels"])
@pytest.mark.parametrize("tile", [dict(columns=4, vectors=1), dict(columns=7, lines=2, vectors=3, unroll=1, block=3)])
def test_every_tile_computes_the_same(tile, order, conv_problem, compare_conv):
    problem = conv_problem(batch=2, height=7, width=7, ic=6, oc=70, kernel=(3, 3), padding=(1, 1, 1, 1))
    kernel = DirectConv.choose(problem.shape(), Target.parse("cpu{isa=avx2,cores=2}"))
    tile = replace(kernel.tile, **{"lines": 1, "block": 1, **tile}, order=order)
    compare_conv(problem, replace(kernel, tile=tile), "avx2")


def test_pointwise_is_flattened(conv_problem):
    shape = conv_problem(batch=2, height=9, width=7, ic=8, oc=8, kernel=(1, 1)).shape().flattened()
    assert (shape.batch, shape.height, shape.width) == (1, 1, 126)


def test_wrong_weight_is_an_error(conv_problem):
    shape = conv_problem(batch=1, height=9, width=7, ic=8, oc=4, kernel=(1, 3)).shape()
    kernel = DirectConv.choose(shape, Target.parse("cpu{isa=avx2}"))
    with pytest.raises(ValueError, match=r"^weight must have shape \(4, 8, 1, 3\), not \(4, 8, 3, 3\)$"):
        kernel.pack(torch.zeros(4, 8, 3, 3))


@pytest.mark.parametrize(("isa_name", "register"), [("avx2", "%ymm"), ("avx512", "%zmm")])
def test_inner_loop_is_vector_multiply_adds(isa_name, register, conv_problem):
    target = Target.parse(f"cpu{{isa={isa_name},cores=2}}")
    kernel = DirectConv.choose(conv_problem(batch=1, height=14, width=14, ic=64, oc=64, kernel=(3, 3)).shape(), target)
    calls = [Call(kernel, tuple((i, 0) for i in range(len(kernel.operands()))))]
    lines = build(run_module(calls, len(kernel.operands())), target).mod.inspect_source("s").splitlines()
    products = [line for line in lines if "vfmadd" in line]
    tile = kernel.tile
    assert len(products) >= tile.columns * tile.lines * tile.vectors * tile.unroll
    assert all(register in line for line in products)
    assert not any("mulss" in line or "mulps" in line for line in lines)
