"""cp.async: what may be touched when, zeros beyond the source, groups."""

import numpy as np
import pytest
from fxpress.backends.cuda.check import InvalidOperand, Misaligned, OutOfBounds, Race, evaluate
from tvm.script import tirx as T

N = 64


def wait_all():
    return T.ptx["cp.async.wait_all"]()


def wait_group():
    return T.ptx["cp.async.wait_group"](0)


def barrier():
    return T.cuda.cta_sync()


def nothing():
    return 0


def copy_kernel(first, second, neighbour=1, limit=4):
    """y is x shifted by `neighbour` threads, four elements each, by asynchronous copies."""

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global")):
        x = T.decl_buffer((4 * N,), data=x_ptr)
        y = T.decl_buffer((4 * N,), data=y_ptr)
        r = T.alloc_shared((4 * N,))
        i = T.launch_thread("threadIdx.x", N)
        T.ptx["cp.async.cg.shared.global"](T.address_of(r[4 * i]), T.address_of(x[4 * i]), 16, T.uint32(4 * limit))
        T.ptx["cp.async.commit_group"]()
        first()
        second()
        y[T.Ramp(4 * i, 1, 4)] = r[T.Ramp(T.truncmod(i + neighbour, N) * 4, 1, 4)]

    return kernel


def arrays():
    return np.arange(4 * N, dtype=np.float32), np.zeros(4 * N, np.float32)


@pytest.mark.parametrize("wait", [wait_all, wait_group])
def test_copies_arrive(wait):
    x, y = arrays()
    evaluate(copy_kernel(wait, barrier), x, y)
    np.testing.assert_array_equal(y, np.roll(x, -4))


def test_own_copy_needs_no_barrier():
    x, y = arrays()
    evaluate(copy_kernel(wait_all, nothing, neighbour=0), x, y)
    np.testing.assert_array_equal(y, x)


def test_bytes_that_are_not_read_become_zero():
    x, y = arrays()
    evaluate(copy_kernel(wait_all, barrier, limit=3), x, y)
    np.testing.assert_array_equal(y.reshape(N, 4), np.roll(x.reshape(N, 4), -1, axis=0) * [1, 1, 1, 0])


def test_read_before_the_wait_is_found():
    message = r"^read of r must come after cp.async.wait and a barrier, not while a copy of thread \(1, 0, 0\)"
    with pytest.raises(Race, match=message):
        evaluate(copy_kernel(barrier, nothing), *arrays())


def test_read_with_a_wait_but_no_barrier_is_found():
    with pytest.raises(Race, match=r"^read of r must be ordered with thread \(1, 0, 0\) of block \(0, 0, 0\)"):
        evaluate(copy_kernel(wait_all, nothing), *arrays())


def test_barrier_before_the_wait_does_not_help():
    with pytest.raises(Race, match=r"^read of r must be ordered"):
        evaluate(copy_kernel(barrier, wait_all), *arrays())


def pipeline(stages, waited, barriers, turns=5):
    """A ring of buffers in shared memory: y[t] is x[t] of the neighbouring thread."""

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global")):
        x = T.decl_buffer((turns * N,), data=x_ptr)
        y = T.decl_buffer((turns * N,), data=y_ptr)
        r = T.alloc_shared((stages * N,))
        i = T.launch_thread("threadIdx.x", N)
        for t in range(stages - 1):
            T.ptx["cp.async.ca.shared.global"](T.address_of(r[t * N + i]), T.address_of(x[t * N + i]), 4)
            T.ptx["cp.async.commit_group"]()
        for t in range(turns):
            T.ptx["cp.async.wait_group"](waited)
            if barriers:
                T.cuda.cta_sync()
            if t + stages - 1 < turns:
                T.ptx["cp.async.ca.shared.global"](
                    T.address_of(r[T.truncmod(t + stages - 1, stages) * N + i]),
                    T.address_of(x[(t + stages - 1) * N + i]),
                    4,
                )
            T.ptx["cp.async.commit_group"]()
            y[t * N + i] = r[T.truncmod(t, stages) * N + T.truncmod(i + 1, N)]

    return kernel


def run_pipeline(*parameters):
    x, y = np.arange(5 * N, dtype=np.float32), np.zeros(5 * N, np.float32)
    evaluate(pipeline(*parameters), x, y)
    np.testing.assert_array_equal(y.reshape(5, N), np.roll(x.reshape(5, N), -1, axis=1))


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_ring_of_buffers(stages):
    run_pipeline(stages, stages - 2, True)


@pytest.mark.parametrize(("stages", "waited", "barriers"), [(3, 2, True), (3, 1, False)])
def test_ring_that_waits_for_too_little_is_found(stages, waited, barriers):
    with pytest.raises(Race):
        run_pipeline(stages, waited, barriers)


def one_copy(size, to, origin, count=None):
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("int8", "global")):
        x = T.decl_buffer((64,), "int8", data=x_ptr)
        r = T.alloc_shared((64,), "int8")
        i = T.launch_thread("threadIdx.x", 1)
        T.ptx["cp.async.ca.shared.global"](
            T.address_of(r[i + to]), T.address_of(x[i + origin]), size, T.uint32(size if count is None else count)
        )

    return kernel


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((4, 2, 0), Misaligned, r"^address of cp.async of 4 bytes in r must be a multiple of 4, not 2; "),
        ((8, 0, 4), Misaligned, r"^address of cp.async of 8 bytes in x_ptr must be a multiple of 8, not 4; "),
        ((16, 0, 64), OutOfBounds, r"^access of x_ptr must be inside its 64 bytes, not at bytes 64 to 80"),
        ((16, 64, 0), OutOfBounds, r"^access of r must be inside its 64 bytes"),
        ((16, 0, 0, 17), InvalidOperand, r"^bytes that cp.async reads must be 0 to 16, not 17"),
    ],
)
def test_wrong_operands_are_found(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(one_copy(*arguments), np.zeros(64, np.int8))


def test_nothing_is_read_beyond_the_source_when_no_byte_is_asked_for():
    evaluate(one_copy(16, 0, 64, 0), np.zeros(64, np.int8))


def test_shared_addresses_are_integers_that_may_be_computed_with():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global")):
        x = T.decl_buffer((4 * N,), data=x_ptr)
        y = T.decl_buffer((4 * N,), data=y_ptr)
        r = T.alloc_shared((4 * N,))
        i = T.launch_thread("threadIdx.x", N)
        start: T.let[T.uint32] = T.cuda.cvta_generic_to_shared(T.address_of(r[0]))
        T.ptx["cp.async.cg.shared.global"](
            start + T.bitwise_xor(T.cast(i, "uint32"), T.uint32(3)) * T.uint32(16), T.address_of(x[4 * i]), 16
        )
        T.ptx["cp.async.wait_all"]()
        T.cuda.cta_sync()
        y[T.Ramp(4 * i, 1, 4)] = r[T.Ramp(4 * i, 1, 4)]

    x, y = arrays()
    evaluate(kernel, x, y)
    np.testing.assert_array_equal(y.reshape(N, 4), x.reshape(N, 4)[np.arange(N) ^ 3])
