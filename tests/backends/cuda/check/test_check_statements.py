"""Control flow, different for each thread."""

import numpy as np
import pytest
from fxpress.backends.cuda.check import InvalidOperand, evaluate
from fxpress.errors import InvalidInput
from tvm.script import tirx as T

N = 40  # more than a warp, not a multiple of one


def run(kernel, *arguments):
    y = np.zeros(N, np.int32)
    evaluate(kernel, *arguments, y)
    return y


def test_branches():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        if i < 10:
            y[i] = 1
        elif i < 20:
            y[i] = 2
        else:
            if T.truncmod(i, 2) == 0:
                y[i] = 3

    i = np.arange(N)
    np.testing.assert_array_equal(run(kernel), np.where(i < 10, 1, np.where(i < 20, 2, np.where(i % 2, 0, 3))))


def test_loops_of_different_lengths():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        total = T.alloc_local((1,), "int32")
        i = T.launch_thread("threadIdx.x", N)
        total[0] = 0
        for j in range(i):
            for k in T.serial(j, j + 2):
                total[0] = total[0] + k
        y[i] = total[0]

    np.testing.assert_array_equal(run(kernel), [sum(2 * j + 1 for j in range(i)) for i in range(N)])


def test_break_and_continue_leave_the_inner_loop_only():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        total = T.alloc_local((1,), "int32")
        i = T.launch_thread("threadIdx.x", N)
        total[0] = 0
        for _j in range(5):
            for k in range(50):
                if T.truncmod(k, 3) == 0:
                    continue
                if k > i:
                    break
                total[0] = total[0] + k
            total[0] = total[0] + 1000
        y[i] = total[0]

    want = [5 * (sum(k for k in range(50) if k % 3 and k <= i) + 1000) for i in range(N)]
    np.testing.assert_array_equal(run(kernel), want)


def test_while():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        n = T.alloc_local((1,), "int32")
        steps = T.alloc_local((1,), "int32")
        i = T.launch_thread("threadIdx.x", N)
        n[0] = i + 1
        steps[0] = 0
        while n[0] != 1:
            n[0] = T.Select(T.truncmod(n[0], 2) == 0, T.truncdiv(n[0], 2), 3 * n[0] + 1)
            steps[0] = steps[0] + 1
        y[i] = steps[0]

    def collatz(n):
        return 0 if n == 1 else 1 + collatz(n // 2 if n % 2 == 0 else 3 * n + 1)

    np.testing.assert_array_equal(run(kernel), [collatz(i + 1) for i in range(N)])


def test_loop_that_never_ends_is_found(monkeypatch):
    monkeypatch.setattr("fxpress.backends.cuda.check.statements.MAX_TURNS", 100)

    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        T.launch_thread("threadIdx.x", N)
        while y[0] == 0:
            y[1] = 1

    with pytest.raises(InvalidOperand, match=r"^a loop must end within 100 turns, not go on"):
        run(kernel)


def test_thread_return_ends_the_thread():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        if i >= 30:
            T.evaluate(T.thread_return())
        y[i] = 7

    np.testing.assert_array_equal(run(kernel), np.where(np.arange(N) < 30, 7, 0))


def test_grid_of_many_blocks_and_axes():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((6000 * 3 * 12,), "int32", data=y_ptr)
        b = T.launch_thread("blockIdx.x", 6000)
        c = T.launch_thread("blockIdx.y", 3)
        i = T.launch_thread("threadIdx.x", 4)
        j = T.launch_thread("threadIdx.y", 3)
        y[((b * 3 + c) * 3 + j) * 4 + i] = ((b * 3 + c) * 3 + j) * 4 + i

    y = np.zeros(6000 * 3 * 12, np.int32)
    evaluate(kernel, y)
    np.testing.assert_array_equal(y, np.arange(len(y)))

    y[:] = -1
    evaluate(kernel, y, blocks=[6001, 0, 17999, 17998])  # (1, 1), (0, 0), (5999, 2) and (5998, 2)
    written = np.flatnonzero(y != -1)
    np.testing.assert_array_equal(written // 12, np.repeat([0, 4, 17996, 17999], 12))
    np.testing.assert_array_equal(y[written], written)
    with pytest.raises(InvalidInput, match=r"^blocks must be numbers from 0 to 17999, not \[18000\]$"):
        evaluate(kernel, y, blocks=[18000])
