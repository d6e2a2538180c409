"""Expressions mean what the CUDA code made of them means."""

import functools

import ml_dtypes
import numpy as np
import pytest
from fxpress.backends.cuda.check import InvalidOperand, OutOfBounds, UnknownConstruct, evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.script import tirx as T

N = 32


def unary(body, source, target):
    """y[i] = body(x[i]) by one warp."""

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle(source, "global"), y_ptr: T.handle(target, "global")):
        x = T.decl_buffer((N,), source, data=x_ptr)
        y = T.decl_buffer((N,), target, data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        y[i] = body(x[i])

    return kernel


@functools.cache
def binary(body, dtype, target=None):
    """z[i] = body(x[i], y[i]) by one warp."""
    target = target or dtype

    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle(dtype, "global"), y_ptr: T.handle(dtype, "global"), z_ptr: T.handle(target, "global")):
        x = T.decl_buffer((N,), dtype, data=x_ptr)
        y = T.decl_buffer((N,), dtype, data=y_ptr)
        z = T.decl_buffer((N,), target, data=z_ptr)
        i = T.launch_thread("threadIdx.x", N)
        z[i] = body(x[i], y[i])

    return kernel


def run_binary(body, x, y, target=None):
    z = np.zeros(N, dtype=x.dtype if target is None else target)
    evaluate(binary(body, str(x.dtype), None if target is None else str(np.dtype(target))), x, y, z)
    return z


def integers(dtype, low=None, high=None, seed=0):
    limits = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(
        limits.min if low is None else low, limits.max if high is None else high, N, dtype=dtype, endpoint=True
    )
    return values


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint32, np.int64])
def test_integers_wrap(dtype):
    x, y = integers(dtype), integers(dtype, seed=1)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(run_binary(lambda a, b: a * b + a - b, x, y), x * y + x - y)


@given(st.integers(-1000, 1000), st.integers(-50, 50).filter(bool))
@settings(max_examples=20, deadline=None)
def test_division_truncates_or_floors(a, b):
    x, y = np.full(N, a, np.int32), np.full(N, b, np.int32)
    assert run_binary(T.truncdiv, x, y)[0] == int(a / b)
    assert run_binary(T.truncmod, x, y)[0] == a - b * int(a / b)
    assert run_binary(T.floordiv, x, y)[0] == a // b
    assert run_binary(T.floormod, x, y)[0] == a % b


def test_division_by_zero_is_found_in_active_threads_only():
    x, y = np.arange(N, dtype=np.int32), np.arange(N, dtype=np.int32)
    guarded = run_binary(lambda a, b: T.if_then_else(b > 0, T.truncdiv(a, b), 0), x, y)
    np.testing.assert_array_equal(guarded, np.minimum(x, 1))
    with pytest.raises(InvalidOperand, match=r"^divisor must be other than zero(.|\n)* thread \(0, 0, 0\): z\["):
        run_binary(T.truncdiv, x, y)


def test_bits():
    x, y = integers(np.int32), integers(np.int32, 0, 31, seed=1)
    np.testing.assert_array_equal(run_binary(lambda a, b: (a << b) ^ (a >> b), x, y), (x << y) ^ (x >> y))
    np.testing.assert_array_equal(run_binary(lambda a, b: (a & b) | ~a, x, y), (x & y) | ~x)
    np.testing.assert_array_equal(run_binary(lambda a, b: T.popcount(a), x, y), np.bitwise_count(x.view(np.uint32)))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_floats_round_to_their_dtype(dtype):
    x, y = (np.random.default_rng(seed).standard_normal(N).astype(dtype) for seed in (0, 1))
    np.testing.assert_array_equal(run_binary(lambda a, b: a * b + a, x, y), (x * y).astype(dtype) + x)


def test_extremes_give_the_second_operand_when_one_is_nan():
    x = np.full(N, np.nan, np.float32)
    y = np.ones(N, np.float32)
    assert (run_binary(T.max, x, y) == 1).all()
    assert np.isnan(run_binary(T.max, y, x)).all()
    assert np.isnan(run_binary(T.min, y, x)).all()
    np.testing.assert_array_equal(run_binary(T.min, x * 0 + 2, y), np.where(np.isnan(x), y, x))


def test_floats_become_integers_by_truncation_and_saturate():
    x = np.zeros(N, np.float32)
    x[:7] = [-2.7, 2.7, np.nan, np.inf, -np.inf, 3e9, -0.9]
    y = np.zeros(N, np.int32)
    evaluate(unary(lambda a: T.cast(a, "int32"), "float32", "int32"), x, y)
    assert y[:7].tolist() == [-2, 2, 0, 2**31 - 1, -(2**31), 2**31 - 1, 0]


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sqrt", "rsqrt", "sin", "erf", "sigmoid", "floor", "nearbyint"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_functions_are_correctly_rounded(name, dtype):
    import torch

    x = np.linspace(0.1, 4, N).astype(dtype)
    y = np.zeros(N, dtype)
    evaluate(unary(getattr(T, name), dtype, dtype), x, y)
    reference = torch.round if name == "nearbyint" else getattr(torch, name)
    want = reference(torch.from_numpy(x).double()).numpy()
    assert np.abs(y - want).max() <= np.abs(want).max() * np.finfo(dtype).eps


@pytest.mark.parametrize("name", ["expf", "__expf", "hexp", "exp"])
def test_external_functions_by_their_names_in_c(name):
    dtype = "float16" if name == "hexp" else "float32"
    x, y = np.linspace(-1, 1, N).astype(dtype), np.zeros(N, dtype)
    evaluate(unary(lambda a: T.call_pure_extern(dtype, name, a), dtype, dtype), x, y)
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=np.finfo(dtype).eps)


def test_unknown_function_is_refused_or_given():
    kernel = unary(lambda a: T.call_pure_extern("float32", "thrice", a), "float32", "float32")
    x, y = np.ones(N, np.float32), np.zeros(N, np.float32)
    with pytest.raises(UnknownConstruct, match=r"^external function thrice must be one that the evaluator defines"):
        evaluate(kernel, x, y)
    evaluate(kernel, x, y, functions={"thrice": lambda a: 3 * a})
    assert (y == 3).all()


def test_dp4a_multiplies_bytes():
    x, y = integers(np.int32), integers(np.int32, seed=1)
    want = (x.view(np.int8).astype(np.int32) * y.view(np.int8)).reshape(N, 4).sum(axis=1) + 5
    got = run_binary(lambda a, b: T.call_pure_extern("int32", "__dp4a", a, b, 5), x, y)
    np.testing.assert_array_equal(got, want)


def test_reinterpretation_keeps_the_bits():
    x, y = np.random.default_rng(0).standard_normal(N).astype(np.float32), np.zeros(N, np.uint32)
    evaluate(unary(lambda a: T.reinterpret("uint32", a), "float32", "uint32"), x, y)
    np.testing.assert_array_equal(y, x.view(np.uint32))


def test_conditional_expression_reads_only_where_it_is_taken():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global")):
        x = T.decl_buffer((20,), data=x_ptr)
        y = T.decl_buffer((N,), data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        y[i] = T.if_then_else(i < 20 and x[i] > T.float32(10), x[i], T.float32(-1))

    x, y = np.arange(20, dtype=np.float32), np.zeros(N, np.float32)
    evaluate(kernel, x, y)
    np.testing.assert_array_equal(y, np.where((np.arange(N) < 20) & (np.arange(N) > 10), np.arange(N), -1))


def test_vectors_are_loaded_computed_and_stored_together():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float16", "global"), y_ptr: T.handle("float16", "global")):
        x = T.decl_buffer((4 * N,), "float16", data=x_ptr)
        y = T.decl_buffer((4 * N,), "float16", data=y_ptr)
        r = T.alloc_local((2,), "float16x4")
        i = T.launch_thread("threadIdx.x", N)
        r[1] = x[T.Ramp(i * 4, 1, 4)] * T.Broadcast(T.float16(2), 4)
        r[0] = T.Select(r[1] > T.Broadcast(T.float16(0), 4), r[1], T.Broadcast(T.float16(0), 4))
        y[T.Ramp(i * 4, 1, 4)] = r[0] + x[T.Ramp(i * 4 + 3, -1, 4)]

    x, y = np.random.default_rng(0).standard_normal(4 * N).astype(np.float16), np.zeros(4 * N, np.float16)
    evaluate(kernel, x, y)
    reversed_ = x.reshape(N, 4)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(y, np.maximum(x * np.float16(2), 0) + reversed_)


def test_words_are_taken_apart_into_bytes():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("int32", "global"), y_ptr: T.handle("int8", "global")):
        x = T.decl_buffer((N,), "int32", data=x_ptr)
        y = T.decl_buffer((4 * N,), "int8", data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        y[T.Ramp(i * 4, 1, 4)] = T.reinterpret("int8x4", x[i])

    x, y = integers(np.int32), np.zeros(4 * N, np.int8)
    evaluate(kernel, x, y)
    np.testing.assert_array_equal(y, x.view(np.int8))


def test_lanes_are_picked_from_vectors():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global")):
        x = T.decl_buffer((4 * N,), data=x_ptr)
        y = T.decl_buffer((2 * N,), data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        y[T.Ramp(i * 2, 1, 2)] = T.Shuffle([x[T.Ramp(i * 4, 1, 4)]], [3, 1])

    x, y = np.arange(4 * N, dtype=np.float32), np.zeros(2 * N, np.float32)
    evaluate(kernel, x, y)
    np.testing.assert_array_equal(y.reshape(N, 2), x.reshape(N, 4)[:, [3, 1]])


def test_leading_zeros():
    x, y = np.array([0, 1, 2, 255, 2**31 - 1, -1] * 6, np.int32)[:N], np.zeros(N, np.int32)
    evaluate(unary(T.clz, "int32", "int32"), x, y)
    assert y[:6].tolist() == [32, 31, 30, 24, 1, 0]


def test_loads_through_the_read_only_path():
    @T.prim_func(s_tir=True)
    def kernel(x_ptr: T.handle("float32", "global"), y_ptr: T.handle("float32", "global"), shift: T.int32):
        x = T.decl_buffer((N,), data=x_ptr)
        y = T.decl_buffer((N,), data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        y[i] = T.cuda.ldg(T.address_of(x[i + shift]), "float32")

    x, y = np.arange(N, dtype=np.float32), np.zeros(N, np.float32)
    evaluate(kernel, x, y, 0)
    np.testing.assert_array_equal(y, x)
    with pytest.raises(OutOfBounds, match=r"thread \(31, 0, 0\)"):
        evaluate(kernel, x, y, 1)


def test_scalars_and_lets():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global"), n: T.int32, step: T.int32):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        i = T.launch_thread("threadIdx.x", n)
        twice: T.let[T.int32] = i * step
        y[i] = twice + n

    y = np.zeros(N, np.int32)
    report = evaluate(kernel, y, 20, 2)
    np.testing.assert_array_equal(y, np.where(np.arange(N) < 20, np.arange(N) * 2 + 20, 0))
    assert report.launch.block == (20, 1, 1)


def test_unknown_intrinsics_are_named():
    @T.prim_func(s_tir=True)
    def kernel(y_ptr: T.handle("int32", "global")):
        y = T.decl_buffer((N,), "int32", data=y_ptr)
        i = T.launch_thread("threadIdx.x", N)
        y[i] = T.cast(T.cuda.clock64(), "int32")

    with pytest.raises(UnknownConstruct, match=r"^intrinsic cuda.clock64 must be one that the evaluator defines"):
        evaluate(kernel, np.zeros(N, np.int32))
