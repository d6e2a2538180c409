"""Bounds, alignment, what was never written, and arguments that do not fit."""

import functools
import re

import numpy as np
import pytest
from fxpress.backends.cuda.check import LimitExceeded, Misaligned, OutOfBounds, Uninitialised, evaluate
from fxpress.errors import InvalidInput
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.script import tirx as T


@functools.cache
def copy_kernel(threads, blocks, predicate):
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global"), n: T.int32):
        x = T.decl_buffer((1 << 30,), data=x_ptr)
        y = T.decl_buffer((1 << 30,), data=y_ptr)
        b = T.launch_thread("blockIdx.x", blocks)
        i = T.launch_thread("threadIdx.x", threads)
        if predicate(b * threads + i, n):
            y[b * threads + i] = x[b * threads + i]

    return kernel


def inside(i, n):
    return i < n


@given(st.integers(1, 500), st.sampled_from([1, 31, 32, 96]))
@settings(max_examples=15, deadline=None)
def test_predicated_copy_of_any_size(n, threads):
    x, y = np.random.default_rng(n).standard_normal(n).astype(np.float32), np.full(n, np.nan, np.float32)
    evaluate(copy_kernel(threads, -(-n // threads), inside), x, y, n)
    np.testing.assert_array_equal(x, y)


def test_one_too_far_is_found_with_its_place():
    kernel = copy_kernel(32, 2, lambda i, n: i <= n)
    with pytest.raises(OutOfBounds) as caught:
        evaluate(kernel, np.zeros(40, np.float32), np.zeros(40, np.float32), 40)
    place = caught.value.place
    assert (place.kernel, place.block, place.thread) == ("kernel", (1, 0, 0), (8, 0, 0))
    assert kernel.script().splitlines()[place.line - 1].strip() == place.text
    assert re.match(
        r"^access of x_ptr must be inside its 160 bytes, not at bytes 160 to 164; predicate the access",
        str(caught.value),
    )


def test_negative_index_is_found():
    @T.prim_func(s_tir=True)
    def shifted(y_ptr: T.handle("float32", "global")):
        y = T.decl_buffer((32,), data=y_ptr)
        i = T.launch_thread("threadIdx.x", 32)
        y[i - 1] = T.float32(0)

    with pytest.raises(OutOfBounds, match=r"not at bytes -4 to 0"):
        evaluate(shifted, np.zeros(32, np.float32))


@pytest.mark.parametrize("scope", ["shared", "local"])
def test_bounds_of_shared_and_local_memory(scope):
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("float32", "global")):
        y = T.decl_buffer((32,), data=y_ptr)
        r = T.alloc_buffer((5,), scope=scope)
        i = T.launch_thread("threadIdx.x", 1)
        for j in range(6):
            r[j] = T.float32(1)
        y[i] = r[0]

    with pytest.raises(OutOfBounds, match=r"^access of r must be inside its 20 bytes"):
        evaluate(kernel, np.zeros(32, np.float32))


def vector_store(step):
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("float16", "global")):
        y = T.decl_buffer((1024,), "float16", data=y_ptr)
        i = T.launch_thread("threadIdx.x", 32)
        y[T.Ramp(i * step, 1, 4)] = T.Broadcast(T.float16(1), 4)

    return kernel


def test_misaligned_vectors_are_found():
    evaluate(vector_store(4), np.zeros(1024, np.float16))
    with pytest.raises(Misaligned, match=r"^address of 8 bytes at once of y_ptr must be a multiple of 8, not 12"):
        evaluate(vector_store(6), np.zeros(1024, np.float16))


def test_loads_that_the_code_generator_splits_need_no_alignment():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float16", "global"), y_ptr: T.handle("float16", "global")):
        x = T.decl_buffer((1024,), "float16", data=x_ptr)
        y = T.decl_buffer((128,), "float16", data=y_ptr)
        i = T.launch_thread("threadIdx.x", 32)
        y[T.Ramp(i * 4, 1, 4)] = x[T.Ramp(i * 5, 1, 4)]

    x, y = np.arange(1024).astype(np.float16), np.zeros(128, np.float16)
    report = evaluate(kernel, x, y)
    np.testing.assert_array_equal(y, (np.arange(32)[:, None] * 5 + np.arange(4)).reshape(-1))
    assert {each.memory: each.width for each in report.traffic} == {"x_ptr": 2, "y_ptr": 8}


def test_pointer_that_is_moved_out_of_alignment_is_found():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("float16", "global")):
        y = T.decl_buffer((1024,), "float16", data=T.handle_add_byte_offset(y_ptr, 4))
        i = T.launch_thread("threadIdx.x", 32)
        y[T.Ramp(i * 4, 1, 4)] = T.Broadcast(T.float16(1), 4)

    with pytest.raises(Misaligned, match=r"multiple of 8, not 4"):
        evaluate(kernel, np.zeros(1024, np.float16))


def test_unwritten_shared_memory_is_found():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("float32", "global")):
        y = T.decl_buffer((32,), data=y_ptr)
        r = T.alloc_shared((32,))
        i = T.launch_thread("threadIdx.x", 32)
        if i < 31:
            r[i] = T.float32(1)
        T.tvm_storage_sync("shared")
        y[i] = r[31 - i]

    with pytest.raises(Uninitialised, match=r"^r must be written before it is read(.|\n)*thread \(0, 0, 0\): y\["):
        evaluate(kernel, np.zeros(32, np.float32))


def register_kernel(use):
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((32,), "int32", data=y_ptr)
        r = T.alloc_local((2,), "int32")
        i = T.launch_thread("threadIdx.x", 32)
        if i < 16:
            r[0] = i
        r[1] = r[0] + 1
        use(y, r, i)

    return kernel


def stored(y, r, i):
    T.buffer_store(y, r[1], [i])


def chosen(y, r, i):
    T.buffer_store(y, T.Select(i < 16, r[1], 5), [i])


def compared(y, r, i):
    T.buffer_store(y, T.if_then_else(r[1] > 3, 1, 0), [i])


def as_index(y, r, i):
    T.buffer_store(y, 1, [r[1]])


@pytest.mark.parametrize("use", [stored, compared, as_index])
def test_unwritten_registers_are_found_where_they_matter(use):
    with pytest.raises(Uninitialised, match=r"must depend on registers that were written(.|\n)*thread \(16, 0, 0\)"):
        evaluate(register_kernel(use), np.zeros(32, np.int32))


def test_unwritten_registers_that_do_not_matter_are_let_be():
    y = np.zeros(32, np.int32)
    evaluate(register_kernel(chosen), y)
    np.testing.assert_array_equal(y, np.where(np.arange(32) < 16, np.arange(32) + 1, 5))


def test_register_that_is_allocated_in_a_loop_is_new_in_each_turn():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((32,), "int32", data=y_ptr)
        i = T.launch_thread("threadIdx.x", 32)
        for j in range(2):
            r = T.alloc_local((1,), "int32")
            if j == 0:
                r[0] = 1
            y[i] = r[0]

    with pytest.raises(Uninitialised):
        evaluate(kernel, np.zeros(32, np.int32))


def test_views_of_one_allocation_share_its_bytes():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("float16", "global")):
        y = T.decl_buffer((64,), "float16", data=y_ptr)
        r = T.alloc_shared((128,), "uint8")
        words = T.decl_buffer((32,), "uint32", data=r.data, scope="shared")
        halves = T.decl_buffer((64,), "float16", data=r.data, scope="shared")
        i = T.launch_thread("threadIdx.x", 32)
        words[i] = T.uint32(0x40003C00)
        y[i * 2] = halves[i * 2]
        y[i * 2 + 1] = halves[i * 2 + 1]

    y = np.zeros(64, np.float16)
    evaluate(kernel, y)
    np.testing.assert_array_equal(y, np.tile([1, 2], 32))


@pytest.mark.parametrize("argument", [np.zeros(4, np.float64), np.zeros((8, 8), np.float16)[:, ::2], 3])
def test_arguments_must_fit(argument):
    with pytest.raises(InvalidInput, match=r"^argument y_ptr must be a contiguous array of float16, not "):
        evaluate(vector_store(4), argument)


def test_number_of_arguments():
    with pytest.raises(InvalidInput, match=r"^arguments must be 1, one a parameter, not 2$"):
        evaluate(vector_store(4), np.zeros(4, np.float16), 1)


def launch(grid, block):
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("float32", "global")):
        y = T.decl_buffer((1,), data=y_ptr)
        b = T.launch_thread("blockIdx.y", grid)
        i = T.launch_thread("threadIdx.x", block)
        if b + i == 0:
            y[0] = T.float32(1)

    return kernel


def allocate(*sizes, scope):
    if len(sizes) == 1:

        @T.prim_func(s_tir=True)
        def one(y_ptr: T.handle("float32", "global")):
            y = T.decl_buffer((1,), data=y_ptr)
            T.alloc_buffer((sizes[0],), scope=scope)
            i = T.launch_thread("threadIdx.x", 1)
            y[i] = T.float32(1)

        return one

    @T.prim_func(s_tir=True)
    def two(y_ptr: T.handle("float32", "global")):
        y = T.decl_buffer((1,), data=y_ptr)
        T.alloc_buffer((sizes[0],), scope=scope)
        T.alloc_buffer((sizes[1],), scope=scope)
        i = T.launch_thread("threadIdx.x", 1)
        y[i] = T.float32(1)

    return two


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (launch(1, 1025), r"^threads of a block must be at most 1024 on sm_80, not 1025; make blocks smaller"),
        (launch(65536, 1), r"^blocks in y must be at most 65535 on sm_80, not 65536; "),
        (allocate(12289, scope="shared"), r"^bytes of static shared memory must be at most 49152 on sm_80, not 49156"),
        (allocate(41729, scope="shared.dyn"), r"^bytes of shared memory of a block must be at most 166912 on sm_80"),
        (allocate(1, 1, scope="shared.dyn"), r"^allocations of scope shared.dyn must be at most 1 on sm_80, not 2"),
    ],
)
def test_limits(kernel, message):
    with pytest.raises(LimitExceeded, match=message):
        evaluate(kernel, np.zeros(1, np.float32))


def test_limits_are_those_of_the_architecture():
    from fxpress.backends.cuda.architectures import ARCHITECTURES

    kernel = allocate(41729, scope="shared.dyn")
    assert evaluate(kernel, np.zeros(1, np.float32), architecture=ARCHITECTURES["sm_90"]).shared == 166916
