"""Kernels that TVM's own rules schedule, as inputs nobody wrote for the evaluator."""

import ml_dtypes
import numpy as np
import pytest
import tvm
from fxpress.backends.cuda.check import OutOfBounds, evaluate
from scipy import special
from tvm import te, tirx, topi
from tvm.s_tir import dlight
from tvm.tirx.build import split_host_device_mods

TARGET = tvm.target.Target(
    {
        "kind": "cuda",
        "arch": "sm_80",
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 49152,
        "thread_warp_size": 32,
    }
)
RULES = [
    dlight.gpu.Matmul(),
    dlight.gpu.GEMV(),
    dlight.gpu.Reduction(),
    dlight.gpu.GeneralReduction(),
    dlight.gpu.Transpose(),
    dlight.gpu.Fallback(),
]


def lowered(*tensors):
    """The device function of a scheduled computation, after all of TVM's passes for CUDA."""
    with TARGET:
        module = dlight.ApplyDefaultSchedule(*RULES)(tvm.IRModule({"main": te.create_prim_func(list(tensors))}))
    target = TARGET.with_host(tvm.target.Target("llvm"))
    pipeline, _, finalize = tirx.get_default_tir_pipeline(target)
    _, devices = split_host_device_mods(pipeline(tirx.transform.BindTarget(target)(module)))
    ((_, device),) = devices.items()
    ((_, function),) = finalize()(device).functions.items()
    return function


def product(m, n, k, dtype, result, transposed=False):
    a = te.placeholder((m, k), dtype, name="a")
    b = te.placeholder((n, k) if transposed else (k, n), dtype, name="b")
    r = te.reduce_axis((0, k), "r")

    def term(i, j):
        right = b[j, r] if transposed else b[r, j]
        return te.sum(a[i, r].astype(result) * right.astype(result), axis=r)

    return a, b, te.compute((m, n), term, name="c")


def check(function, inputs, want, dtype, rtol=0.0):
    got = np.zeros(want.shape, dtype)
    if got.dtype.kind != "i":
        got[...] = np.nan
    named = dict(zip(("a_ptr", "b_ptr"), inputs, strict=False))
    report = evaluate(function, *(named.get(str(each.name), got) for each in function.params))
    error = np.abs(got.astype(np.float64) - want).max()
    assert error <= rtol * np.abs(want).max()
    return report


@pytest.mark.parametrize(
    ("m", "n", "k", "dtype", "result"),
    [(100, 70, 50, np.float32, "float32"), (64, 66, 34, np.float16, "float32"), (37, 65, 52, np.int8, "int32")],
)
def test_matmul(m, n, k, dtype, result):
    rng = np.random.default_rng(0)
    a, b = ((rng.standard_normal(shape) * 30).astype(dtype) for shape in ((m, k), (k, n)))
    function = lowered(*product(m, n, k, np.dtype(dtype).name, result))
    want = a.astype(np.float64) @ b.astype(np.float64)
    check(function, (a, b), want, result, 0 if result == "int32" else 1e-6)


@pytest.mark.parametrize("shape", [(33, 1000), (5, 31), (1, 1)])
def test_sum(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    a = te.placeholder(shape, "float32", name="a")
    check(lowered(a, topi.sum(a, axis=1)), (x,), x.astype(np.float64).sum(axis=1), "float32", 1e-5)


@pytest.mark.parametrize("shape", [(3, 1000), (7, 33)])
def test_softmax(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    a = te.placeholder(shape, "float32", name="a")
    want = special.softmax(x.astype(np.float64), axis=1)
    report = check(lowered(a, topi.nn.softmax(a, axis=1)), (x,), want, "float32", 1e-6)
    assert report.launch.blocks == shape[0]


def test_gemv():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((1, 100), (80, 100)))
    function = lowered(*product(1, 80, 100, "float16", "float32", transposed=True))
    check(function, (a, b), a.astype(np.float64) @ b.astype(np.float64).T, "float32", 1e-6)


def test_store_outside_is_found_in_a_rule_that_is_wrong():
    """TVM 0.27 does not predicate the stores of a GEMV whose rows are not a multiple of those of a block."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((1, 100), (70, 100)))
    function = lowered(*product(1, 70, 100, "float16", "float32", transposed=True))
    with pytest.raises(OutOfBounds, match=r"^access of c_ptr must be inside its 280 bytes, not at bytes 280 to 284"):
        evaluate(function, a, b, np.zeros((1, 70), np.float32))


def test_transpose():
    x = np.random.default_rng(0).standard_normal((33, 100)).astype(np.float16)
    a = te.placeholder((33, 100), "float16", name="a")
    check(lowered(a, topi.transpose(a)), (x,), x.T.astype(np.float64), "float16")


def test_elementwise_in_bfloat16():
    x = np.random.default_rng(0).standard_normal((33, 100)).astype(ml_dtypes.bfloat16)
    a = te.placeholder((33, 100), "bfloat16", name="a")
    function = lowered(a, te.compute((33, 100), lambda i, j: te.tanh(a[i, j]) + te.exp(a[i, j])))
    wide = x.astype(np.float64)
    check(function, (x,), np.tanh(wide) + np.exp(wide), ml_dtypes.bfloat16, 2**-8)
