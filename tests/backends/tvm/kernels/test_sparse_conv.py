"""Convolutions and linear layers with mostly zero weights against PyTorch in float64."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.base import Call, run_module
from fxpress.backends.tvm.kernels.conv_shape import ConvShape
from fxpress.backends.tvm.kernels.harness import CompiledKernel, build
from fxpress.backends.tvm.kernels.sparse_conv import SparseConv
from fxpress.target import Target
from hypothesis import given, settings
from hypothesis import strategies as st

TARGETS = {isa: Target.parse(f"cpu{{isa={isa},cores=2,l1=49152,l2=2097152}}") for isa in ("avx2", "avx512")}


def sparse(oc: int, ic: int, kernel: tuple[int, int], r: int, density: float, seed: int = 0) -> torch.Tensor:
    """A weight whose blocks of r outputs are zero but for that share."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.rand(-(-oc // r), ic, *kernel, generator=generator) < density
    return torch.randn(oc, ic, *kernel, generator=generator) * held.repeat_interleave(r, 0)[:oc]


@pytest.fixture
def check(compare_conv, conv_problem):
    def run(isa, r=16, density=0.3, weight=None, tile=None, **case):
        problem = conv_problem(**case)
        if weight is None:
            weight = sparse(problem.oc, problem.ic, problem.kernel, r, density)
        kernel = SparseConv.choose_sparse(problem.shape(), weight, TARGETS[isa])
        kernel = replace(kernel, **{name: value for name, value in (tile or {}).items() if name != "tile"})
        kernel = replace(kernel, tile=replace(kernel.tile, **(tile or {}).get("tile", {})))
        compare_conv(problem, kernel, isa, weight=weight)
        return kernel

    return run


CASES = {
    "linear": dict(batch=1, height=1, width=37, ic=70, oc=96, kernel=(1, 1), activation="relu"),
    "long-sums": dict(batch=1, height=1, width=5, ic=1900, oc=40, kernel=(1, 1), density=0.7, residual=True),
    "one-row": dict(batch=1, height=1, width=1, ic=900, oc=200, kernel=(1, 1)),
    "one-row-of-long-sums": dict(batch=1, height=1, width=1, ic=5000, oc=33, kernel=(1, 1), density=0.9),
    "square": dict(batch=1, height=6, width=9, ic=16, oc=33, kernel=(3, 3), padding=(1, 1, 1, 1), activation="relu6"),
    "strided-views": dict(
        batch=2, height=8, width=9, ic=5, oc=19, kernel=(3, 2), padding=(1, 0, 0, 1), residual=True, dense=False
    ),
    "dilated-strided": dict(batch=1, height=11, width=12, ic=8, oc=64, kernel=(3, 3), dilation=(2, 1), stride=(1, 2)),
    "line": dict(batch=2, height=1, width=50, ic=20, oc=16, kernel=(1, 3), stride=(1, 2), padding=(0, 0, 1, 1)),
    "one-channel": dict(batch=1, height=3, width=3, ic=1, oc=1, kernel=(1, 1), density=1.0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_pytorch(case, isa, check):
    check(isa, **case)


@st.composite
def problems(draw):
    """Sparse layers of small, awkward sizes."""
    side, pad = st.sampled_from([1, 1, 2, 3]), st.integers(0, 2)
    return dict(
        batch=draw(st.integers(1, 2)),
        height=draw(st.sampled_from([3, 8])),
        width=draw(st.sampled_from([5, 17])),
        ic=draw(st.sampled_from([1, 5, 31])),
        oc=draw(st.sampled_from([1, 6, 16, 37, 97])),
        kernel=(draw(side), draw(side)),
        stride=(draw(side), draw(side)),
        padding=(draw(pad), draw(pad), draw(pad), draw(pad)),
        activation=draw(st.sampled_from(["none", "relu"])),
        residual=draw(st.booleans()),
        r=draw(st.sampled_from([1, 8, 16, 32, 50])),
        density=draw(st.sampled_from([0.0, 0.05, 0.3, 1.0])),
    )


@settings(max_examples=6)
@given(case=problems(), isa=st.sampled_from(["avx2", "avx512"]))
def test_property(case, isa, conv_problem, compare_conv):
    r, density = case.pop("r"), case.pop("density")
    problem = conv_problem(**case)
    weight = sparse(problem.oc, problem.ic, problem.kernel, r, density)
    compare_conv(problem, SparseConv.choose_sparse(problem.shape(), weight, TARGETS[isa]), isa, weight=weight)


def test_panels_may_be_empty_full_and_anything_between(isa, check):
    weight = sparse(100, 40, (1, 1), 1, 0.0)
    weight[:16] = torch.randn(16, 40, 1, 1)
    weight[70, 3], weight[99, 39] = 2.0, -1.0
    case = dict(batch=1, height=1, width=21, ic=40, oc=100, kernel=(1, 1))
    check(isa, weight=weight, **case)
    kernel = check(isa, weight=weight, tile=dict(shares=3, tile=dict(vectors=1)), **case)
    pointers = kernel.pack_sparse(weight)[2]
    panels = kernel.tile.panels(kernel.shape)
    assert pointers[panels] == 40 + 2 + (kernel.tile.lanes == 8) * 40
    assert (pointers[: panels + 1].diff() == 0).any()


@pytest.mark.parametrize("tile", [
    dict(shares=3, tile=dict(columns=4, vectors=1, lines=1)),
    dict(parts=3, tile=dict(columns=7, vectors=2, lines=2, unroll=1)),
    dict(shares=2, parts=2, tile=dict(columns=5, vectors=1, lines=1)),
    dict(copies=3, tile=dict(columns=2, vectors=1, lines=1, block=2)),
])  # fmt: skip
def test_every_choice_computes_the_same(tile, check):
    check("avx2", tile=tile, batch=2, height=7, width=7, ic=6, oc=70, kernel=(3, 3), padding=(1, 1, 1, 1), r=8)


def test_tasks_have_about_equally_many_steps(conv_problem):
    weight = sparse(32 * 16, 100, (1, 1), 32, 0.1)
    weight[: 32 * 3] = 1.0  # three panels that are full
    shape = conv_problem(batch=1, height=1, width=3, ic=100, oc=512, kernel=(1, 1)).shape()
    kernel = replace(SparseConv.choose_sparse(shape, weight, TARGETS["avx512"]), shares=2, parts=1)
    pointers = kernel.pack_sparse(weight)[2]
    panels = kernel.tile.panels(shape)
    steps, begins = pointers[: panels + 1], pointers[panels + 1 :]
    assert (begins[0], begins[-1]) == (0, panels)
    most = max(int(steps[b] - steps[a]) for a, b in itertools.pairwise(begins))
    assert most <= int(steps[-1]) / 2 + 100 / 2  # half of a panel more than its share
    assert begins[1] < panels / 2


def test_few_pixels_share_out_panels_and_many_share_out_pixels(conv_problem):
    weight = sparse(512, 512, (1, 1), 32, 0.25)

    def kernel(rows):
        shape = conv_problem(batch=1, height=1, width=rows, ic=512, oc=512, kernel=(1, 1)).shape()
        return SparseConv.choose_sparse(shape, weight, TARGETS["avx512"])

    assert (kernel(4).shares, kernel(4).parts) == (2, 1)
    assert (kernel(128).shares, kernel(128).parts) == (1, 2)
    assert kernel(1).copies > 1
    assert kernel(128).copies == 1


def test_what_is_not_stored_is_not_multiplied():
    weight = torch.zeros(20, 8, 1, 1)
    weight[:, 2] = 1.0
    shape = ConvShape(
        batch=1, height=1, width=3, ic=8, oc=20, kernel=(1, 1), x_strides=(24, 24, 8), y_strides=(60, 60, 20)
    )
    for target in TARGETS.values():
        kernel = SparseConv.choose_sparse(shape, weight, target)
        x, y = np.ones((3, 8), np.float32), np.zeros((3, 20), np.float32)
        x[0, 2], x[1, 2], x[2, 5] = np.nan, np.inf, np.nan
        CompiledKernel(kernel, target)(x, *(p.numpy() for p in kernel.pack_sparse(weight)), np.zeros(20, "f"), y)
        assert np.isnan(y[0]).all()
        assert np.isinf(y[1]).all()
        assert (y[2] == 1).all()


@pytest.mark.parametrize(("isa_name", "register"), [("avx2", "%ymm"), ("avx512", "%zmm")])
def test_inner_loop_is_vector_multiply_adds(isa_name, register, conv_problem):
    weight = sparse(64, 64, (3, 3), 32, 0.25)
    shape = conv_problem(batch=1, height=14, width=14, ic=64, oc=64, kernel=(3, 3)).shape()
    kernel = SparseConv.choose_sparse(shape, weight, TARGETS[isa_name])
    calls = [Call(kernel, tuple((i, 0) for i in range(len(kernel.operands()))))]
    code = build(run_module(calls, len(kernel.operands())), TARGETS[isa_name]).mod.inspect_source("s")
    products = [line for line in code.splitlines() if "vfmadd" in line]
    tile = kernel.tile
    assert len(products) >= tile.columns * tile.lines * tile.vectors * tile.unroll
    assert all(register in line for line in products)
    assert "prefetch" not in code
