"""Values that go between lanes."""

import numpy as np
import pytest
from fxpress.backends.cuda.check import DivergentBarrier, InvalidOperand, Uninitialised, evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.script import tirx as T

ALL = 0xFFFFFFFF


def shuffle(name, operand, width, threads=32, mask=ALL, lanes=None):
    lanes = threads if lanes is None else lanes

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global")):
        x = T.decl_buffer((threads,), data=x_ptr)
        y = T.decl_buffer((threads,), data=y_ptr)
        i = T.launch_thread("threadIdx.x", threads)
        if i < lanes:
            y[i] = tirx.call_intrin("float32", f"tirx.cuda.{name}", T.uint32(mask), x[i], operand, width)

    return kernel


def source(name, lane, operand, width):
    """What the CUDA programming guide says of the lane that is read."""
    start = lane // width * width
    if name == "__shfl_sync":
        return start + operand % width
    if name == "__shfl_up_sync":
        return lane - operand if lane - operand >= start else lane
    if name == "__shfl_down_sync":
        return lane + operand if lane + operand < start + width else lane
    return lane ^ operand if lane ^ operand < start + width else lane


@given(
    st.sampled_from(["__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"]),
    st.integers(0, 31),
    st.sampled_from([2, 4, 8, 16, 32]),
)
@settings(max_examples=20, deadline=None)
def test_each_lane_reads_its_source(name, operand, width):
    x, y = np.random.default_rng(0).standard_normal(96).astype(np.float32), np.zeros(96, np.float32)
    evaluate(shuffle(name, operand, width, 96), x, y)
    lanes = np.array([source(name, lane, operand, width) for lane in range(32)])
    np.testing.assert_array_equal(y.reshape(3, 32), x.reshape(3, 32)[:, lanes])


def test_mask_must_name_the_lanes_that_run():
    x, y = np.ones(32, np.float32), np.zeros(32, np.float32)
    with pytest.raises(DivergentBarrier, match=r"^the mask of shfl.down must name the lanes that run it, 0xffff, not"):
        evaluate(shuffle("__shfl_down_sync", 1, 32, lanes=16), x, y)
    with pytest.raises(InvalidOperand, match=r"the lanes that run it, 0xffffffff, not 0xffff"):
        evaluate(shuffle("__shfl_down_sync", 1, 32, mask=0xFFFF), x, y)


def test_value_of_a_lane_that_is_not_there_is_unwritten():
    x, y = np.ones(20, np.float32), np.zeros(20, np.float32)
    evaluate(shuffle("__shfl_down_sync", 0, 32, 20), x, y)
    with pytest.raises(Uninitialised, match=r"thread \(4, 0, 0\)"):
        evaluate(shuffle("__shfl_down_sync", 16, 32, 20), x, y)


@pytest.mark.parametrize(("op", "function"), [("sum", np.sum), ("max", np.max), ("min", np.min)])
@pytest.mark.parametrize("width", [4, 32])
def test_reduction_of_a_warp(op, function, width):
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global")):
        x = T.decl_buffer((64,), data=x_ptr)
        y = T.decl_buffer((64,), data=y_ptr)
        i = T.launch_thread("threadIdx.x", 64)
        y[i] = T.cuda.warp_reduce(x[i], op, width)

    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    evaluate(kernel, x, y)
    np.testing.assert_array_equal(y, np.repeat(function(x.reshape(-1, width), axis=1), width))


def test_votes():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("uint32", "global")):
        y = T.decl_buffer((64,), "uint32", data=y_ptr)
        i = T.launch_thread("threadIdx.x", 64)
        if i >= 32:
            y[i] = T.cuda.ballot_sync(T.cuda.__activemask(), T.truncmod(i, 3) == 0)
        else:
            y[i] = T.cuda.__activemask()

    y = np.zeros(64, np.uint32)
    evaluate(kernel, y)
    assert set(y[:32]) == {ALL}
    assert set(y[32:]) == {sum(1 << i for i in range(32) if (i + 32) % 3 == 0)}
