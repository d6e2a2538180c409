"""Kernels compiled by nvcc: every template fits a block of every architecture; all dtypes in the slow tests."""

from __future__ import annotations

import math

import pytest
from fxpress.backends.cuda.architectures import ARCHITECTURES
from fxpress.backends.cuda.build import check_limits
from fxpress.backends.cuda.kernels.base import CudaKernel
from fxpress.backends.cuda.kernels.epilogue import Epilogue, Matrices, item_size
from fxpress.backends.cuda.kernels.gemm import BLOCKINGS, Blocking, Gemm
from fxpress.backends.cuda.kernels.norm import LayerNorm
from fxpress.backends.cuda.kernels.pointwise import Pointwise
from fxpress.backends.cuda.kernels.reduce import Reduce
from fxpress.backends.cuda.kernels.rows import Rows
from fxpress.backends.cuda.kernels.softmax import Softmax
from fxpress.backends.cuda.kernels.sources import ImageSource
from fxpress.backends.cuda.nvcc import Usage, compile_source, find_nvcc, usages
from fxpress.backends.cuda.worker import compile_kernels
from fxpress.backends.tvm.kernels.pointwise_program import Instruction, Stream
from fxpress.errors import BackendUnavailable, InternalError

FLOATS = ("float32", "float16", "bfloat16")
PRODUCTS = ("float32", "tf32", "float16", "bfloat16", "int8")


def has_nvcc() -> bool:
    try:
        return find_nvcc() is not None
    except BackendUnavailable:
        return False


needs_nvcc = pytest.mark.skipif(not has_nvcc(), reason="nvcc is not on this machine")


def gemm(dtype: str, blocking: Blocking, m: int = 197, n: int = 768, k: int = 768, by_rows: bool = False) -> Gemm:
    out, step = {"int8": "int32", "tf32": "float32"}.get(dtype, dtype), 16 // item_size(dtype)
    y = Matrices((), n, 2)
    plain = Epilogue(out) if dtype == "int8" else Epilogue(out, out, y, out, "gelu")
    return Gemm(m, n, k, dtype, Matrices((), k), Matrices((), n if by_rows else k), y, plain, blocking, (),
                math.gcd(k, step), step, by_rows)  # fmt: skip


def conv(dtype: str) -> Gemm:
    source = ImageSource((56 * 56 * 64, 56 * 64, 64), (56, 56), 64, (56, 56), (3, 3), (1, 1), (1, 1), (1, 1))
    y, step = Matrices((), 64, 2), 16 // item_size(dtype)
    epilogue = Epilogue("float32" if dtype == "tf32" else dtype, activation="relu")
    return Gemm(3136, 64, 576, dtype, source, Matrices((), 576), y, epilogue, BLOCKINGS[2], (), step, step)


def chain(dtype: str) -> Pointwise:
    steps = (Instruction("input", (), dtype, (0,)), Instruction("gelu", (0,), dtype))
    stream = Stream(dtype, (768, 1))
    return Pointwise.choose((64, 768), [stream], [stream], steps, [1], (16, 16))


def row_kernels(dtype: str, size: int) -> dict[str, CudaKernel]:
    rows = Rows((64,), size, (size,), 1, dtype)
    vector = rows.widest(16)
    return {
        f"softmax_{dtype}_{size}": Softmax(rows, rows, False, vector),
        f"norm_{dtype}_{size}": LayerNorm(rows, rows, 1e-5, dtype, dtype, False, vector),
        f"mean_{dtype}_{size}": Reduce("mean", rows, (1,), dtype, vector),
    }


def check(kernels: dict[str, CudaKernel], architectures: tuple[str, ...] = ("sm_80", "sm_90")) -> None:
    limits = [ARCHITECTURES[name] for name in architectures]
    compiled = compile_kernels(kernels, limits)
    check_limits(compiled.usages, kernels, limits)
    assert len(compiled.usages) == len(kernels) * len(architectures)
    assert [usage for usage in compiled.usages if usage.spills] == []


@needs_nvcc
def test_a_template_of_each_kind_fits_two_architectures() -> None:
    softmax = row_kernels("float16", 768)["softmax_float16_768"]
    check({"conv": conv("float16"), "chain": chain("bfloat16"), "softmax": softmax})


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRODUCTS)
def test_all_products(dtype: str) -> None:
    kernels: dict[str, CudaKernel] = {f"gemm{i}": gemm(dtype, each) for i, each in enumerate(BLOCKINGS)}
    kernels["odd"] = gemm(dtype, BLOCKINGS[2], m=33, n=66, k=67)
    if dtype in ("float16", "bfloat16"):
        kernels |= {f"by_rows{i}": gemm(dtype, each, by_rows=True) for i, each in enumerate(BLOCKINGS)}
    if dtype != "int8":
        kernels["conv"] = conv(dtype)
    check(kernels, tuple(ARCHITECTURES))


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
def test_all_row_kernels_and_chains(dtype: str) -> None:
    kernels: dict[str, CudaKernel] = {"chain": chain(dtype)}
    for size in (77, 768, 8192, 100_000):
        kernels |= row_kernels(dtype, size)
    check(kernels, tuple(ARCHITECTURES))


@needs_nvcc
def test_source_that_nvcc_does_not_take_is_our_fault() -> None:
    with pytest.raises(InternalError, match=r"^nvcc must take the code of our kernels, but said: .*error.*; please"):
        compile_source('extern "C" __global__ void k() { nonsense; }', [ARCHITECTURES["sm_80"]])


def test_without_nvcc(monkeypatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)

    with pytest.raises(BackendUnavailable, match=r"^compiling for CUDA needs nvcc, .* CUDA toolkit .* CUDA_HOME"):
        compile_kernels({"chain": chain("float32")}, [ARCHITECTURES["sm_80"]])


REPORT = """\
ptxas info    : Compiling entry function 'k0_gemm' for 'sm_80'
ptxas info    : Function properties for k0_gemm
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 122 registers, used 1 barriers, 512 bytes smem, 392 bytes cmem[0]
ptxas info    : Compile time = 0.000 ms
ptxas info    : Compiling entry function 'k1' for 'sm_90'
ptxas info    : Function properties for k1
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, 368 bytes cmem[0]
"""


def test_report_is_read() -> None:
    assert list(usages(REPORT)) == [
        Usage("k0_gemm", "sm_80", registers=122, shared=512, stack=8, spills=4),
        Usage("k1", "sm_90", registers=16, shared=0, stack=0, spills=0),
    ]


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        (Usage("k", "sm_86", registers=264, shared=0, stack=0, spills=0), "256 threads of 264 registers"),
        (Usage("k", "sm_86", registers=32, shared=64 << 10, stack=0, spills=0), "131072 bytes of shared memory"),
    ],
)
def test_more_than_a_block_can_have_is_refused(usage: Usage, message: str) -> None:
    kernel = gemm("float16", BLOCKINGS[0])  # 64 KiB of its own

    with pytest.raises(InternalError, match=rf"^a block of k must fit a multiprocessor of sm_86, but has .*{message}"):
        check_limits([usage], {"k": kernel}, [ARCHITECTURES["sm_86"]])


def test_a_function_without_report_is_refused() -> None:
    with pytest.raises(InternalError, match=r"must report what every function uses"):
        check_limits([], {"k": gemm("float16", BLOCKINGS[0])}, [ARCHITECTURES["sm_80"]])
