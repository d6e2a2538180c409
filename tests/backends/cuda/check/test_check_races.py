"""Threads that meet in one address with no barrier between."""

import numpy as np
import pytest
from fxpress.backends.cuda.check import DivergentBarrier, Race, evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.script import tirx as T

N = 64


def reverse(barrier, threads=N):
    """y is x backwards, through shared memory."""

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global")):
        x = T.decl_buffer((threads,), data=x_ptr)
        y = T.decl_buffer((threads,), data=y_ptr)
        r = T.alloc_shared((threads,))
        i = T.launch_thread("threadIdx.x", threads)
        r[i] = x[i]
        barrier()
        y[i] = r[threads - 1 - i]

    return kernel


def block_barrier():
    return T.tvm_storage_sync("shared")


def warp_barrier():
    return T.cuda.warp_sync()


def fence():
    return T.cuda.thread_fence()


def nothing():
    return 0


def run(kernel, threads=N):
    x, y = np.arange(threads, dtype=np.float32), np.zeros(threads, np.float32)
    evaluate(kernel, x, y)
    np.testing.assert_array_equal(y, x[::-1])


@pytest.mark.parametrize("barrier", [nothing, fence, warp_barrier])
def test_missing_barrier_is_found(barrier):
    message = (
        r"^read of r must be ordered with thread \(63, 0, 0\) of block \(0, 0, 0\), which wrote it, by a barrier; "
        r"put a barrier between the two(.|\n)* thread \(0, 0, 0\): y\["
    )
    with pytest.raises(Race, match=message):
        run(reverse(barrier))


def test_barriers_order_threads():
    run(reverse(block_barrier))
    run(reverse(T.cuda.cta_sync))


def test_barrier_of_a_warp_orders_its_threads():
    run(reverse(warp_barrier, 32), 32)
    with pytest.raises(Race):
        run(reverse(nothing, 32), 32)


def rotating(second_barrier):
    """Each turn passes values to the next thread through the same memory."""

    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        r = T.alloc_shared((N,), "int32")
        v = T.alloc_local((1,), "int32")
        i = T.launch_thread("threadIdx.x", N)
        v[0] = i
        for _turn in range(3):
            r[i] = v[0]
            T.tvm_storage_sync("shared")
            v[0] = r[T.truncmod(i + 1, N)]
            second_barrier()
        y[i] = v[0]

    return kernel


def test_write_after_read_needs_a_barrier_too():
    y = np.zeros(N, np.int32)
    evaluate(rotating(block_barrier), y)
    np.testing.assert_array_equal(y, (np.arange(N) + 3) % N)
    with pytest.raises(Race, match=r"^write of r must be ordered with thread .*, which read it, by a barrier"):
        evaluate(rotating(nothing), y)


def writes(value, index):
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        r = T.alloc_shared((N,), "int32")
        i = T.launch_thread("threadIdx.x", N)
        r[index(i)] = value(i)
        T.tvm_storage_sync("shared")
        if i == 0:
            y[0] = r[0]

    return kernel


def test_threads_that_write_different_values_are_found():
    y = np.zeros(N, np.int32)
    evaluate(writes(lambda i: 7, lambda i: 0), y)
    assert y[0] == 7
    with pytest.raises(Race, match=r"^an element of r must be written by one thread, not with different values"):
        evaluate(writes(lambda i: i, lambda i: 0), y)


def test_threads_that_write_different_values_in_different_statements_are_found():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        r = T.alloc_shared((N,), "int32")
        i = T.launch_thread("threadIdx.x", N)
        if i == 0:
            r[5] = 1
        if i == 33:
            r[5] = 2
        y[i] = 0

    with pytest.raises(Race, match=r"^write of r must be ordered with thread \(0, 0, 0\) of .*, which wrote it"):
        evaluate(kernel, np.zeros(N, np.int32))


def test_blocks_must_not_share_elements_of_global_memory():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        b = T.launch_thread("blockIdx.x", 2)
        i = T.launch_thread("threadIdx.x", 33)
        y[b * 31 + i] = b

    with pytest.raises(Race, match=r"^an element of y_ptr must be written by one thread"):
        evaluate(kernel, np.zeros(N, np.int32))


def test_blocks_of_different_batches_must_not_share_elements(monkeypatch):
    monkeypatch.setattr("fxpress.backends.cuda.check.threads.MAX_BATCH", 1)

    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        b = T.launch_thread("blockIdx.x", 2)
        i = T.launch_thread("threadIdx.x", 32)
        T.tvm_storage_sync("shared")
        y[b * 31 + i] = b

    with pytest.raises(Race, match=r"ordered with thread \(31, 0, 0\) of block \(0, 0, 0\)(.|\n)* block \(1, 0, 0\)"):
        evaluate(kernel, np.zeros(N, np.int32))


def test_block_must_not_read_what_another_wrote():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        b = T.launch_thread("blockIdx.x", 2)
        i = T.launch_thread("threadIdx.x", 32)
        y[b * 32 + i] = b
        T.tvm_storage_sync("shared")
        y[b * 32 + i] = y[T.truncmod(b * 32 + i + 32, N)]

    with pytest.raises(Race, match=r"^read of y_ptr must be ordered with thread .* of block \(1, 0, 0\)"):
        evaluate(kernel, np.zeros(N, np.int32))


def test_update_in_place_by_one_thread_is_no_race():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        b = T.launch_thread("blockIdx.x", 2)
        i = T.launch_thread("threadIdx.x", 32)
        y[b * 32 + i] = y[b * 32 + i] + 1
        y[b * 32 + i] = y[b * 32 + i] * 2

    y = np.arange(N, dtype=np.int32)
    evaluate(kernel, y)
    np.testing.assert_array_equal(y, (np.arange(N) + 1) * 2)


def test_atomic_additions_are_no_race():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("float32", "global")):
        y = T.decl_buffer((2,), data=y_ptr)
        b = T.launch_thread("blockIdx.x", 3)
        i = T.launch_thread("threadIdx.x", 50)
        T.cuda.atomic_add(T.address_of(y[T.truncmod(i, 2)]), T.cast(i + b, "float32"))

    y = np.zeros(2, np.float32)
    evaluate(kernel, y)
    total = np.add.outer(np.arange(3), np.arange(50))
    np.testing.assert_array_equal(y, [total[:, ::2].sum(), total[:, 1::2].sum()])


def tree(threads, missing=-1):
    """The sum of a block, by a tree in shared memory; without the barrier of one level."""
    levels = (threads - 1).bit_length()

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("int32", "global"), y_ptr: T.handle("int32", "global")):
        x = T.decl_buffer((threads,), "int32", data=x_ptr)
        y = T.decl_buffer((1,), "int32", data=y_ptr)
        r = T.alloc_shared((threads,), "int32")
        i = T.launch_thread("threadIdx.x", threads)
        r[i] = x[i]
        T.tvm_storage_sync("shared")
        for level in range(levels):
            half: T.let[T.int32] = T.shift_left(1, levels - 1 - level)
            if i < half and i + half < threads:
                r[i] = r[i] + r[i + half]
            if level != missing:
                T.tvm_storage_sync("shared")
        if i == 0:
            y[0] = r[0]

    return kernel


@given(st.integers(1, 300))
@settings(max_examples=10, deadline=None)
def test_tree_reduction_of_any_block(threads):
    x, y = np.arange(threads, dtype=np.int32), np.zeros(1, np.int32)
    evaluate(tree(threads), x, y)
    assert y[0] == x.sum()


@pytest.mark.parametrize("missing", range(6))
def test_each_barrier_of_a_tree_reduction_is_needed(missing):
    with pytest.raises(Race):
        evaluate(tree(128, missing), np.arange(128, dtype=np.int32), np.zeros(1, np.int32))


def barrier_in(condition):
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((4 * N,), "int32", data=y_ptr)
        b = T.launch_thread("blockIdx.x", 4)
        i = T.launch_thread("threadIdx.x", N)
        if condition(b, i):
            T.tvm_storage_sync("shared")
        y[b * N + i] = i

    return kernel


def test_barrier_that_some_threads_do_not_reach_is_found():
    y = np.zeros(4 * N, np.int32)
    evaluate(barrier_in(lambda b, i: b < 2), y)
    message = (
        r"^__syncthreads\(\) must be reached by all 64 threads of a block, not by 40: this thread does not come; "
        r"move it out(.|\n)* block \(0, 0, 0\) thread \(40, 0, 0\): "
    )
    with pytest.raises(DivergentBarrier, match=message):
        evaluate(barrier_in(lambda b, i: i < 40), y)


def test_threads_that_have_ended_are_not_waited_for():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        if i >= 40:
            T.evaluate(T.thread_return())
        T.tvm_storage_sync("shared")
        y[i] = 1

    y = np.zeros(N, np.int32)
    evaluate(kernel, y)
    assert y.sum() == 40


def test_votes_of_a_block():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((2 * N,), "int32", data=y_ptr)
        b = T.launch_thread("blockIdx.x", 2)
        i = T.launch_thread("threadIdx.x", N)
        y[b * N + i] = T.cuda.syncthreads_and(i + b > 0) * 2 + T.cuda.syncthreads_or(i + b > N - 1)

    y = np.zeros(2 * N, np.int32)
    evaluate(kernel, y)
    np.testing.assert_array_equal(y, np.repeat([0, 3], N))
