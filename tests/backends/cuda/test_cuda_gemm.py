"""Products of matrices and convolutions as such, evaluated: exact on small integers, for sizes that fit no block."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cuda_kernels import NUMPY, run, small_integers
from fxpress.backends.cuda.architectures import ARCHITECTURES
from fxpress.backends.cuda.kernels.epilogue import Epilogue, Matrices, item_size
from fxpress.backends.cuda.kernels.gemm import BLOCKINGS, Gemm
from fxpress.backends.cuda.kernels.sources import ImageSource

SMALL = BLOCKINGS[2]
TINY = BLOCKINGS[4]


def dense(batch: tuple[int, ...], rows: int, columns: int) -> Matrices:
    strides = tuple(math.prod(batch[i + 1 :]) * rows * columns for i in range(len(batch)))
    return Matrices(strides, columns, math.gcd(columns, 8))


def product(dtype: str, m: int, n: int, k: int, blocking=TINY, batch=(), by_rows=False, activation="none") -> None:
    """Compare a product with a bias and a residual with NumPy's; all numbers are small integers."""
    rng = np.random.default_rng(0)
    out = {"int8": "int32", "tf32": "float32"}.get(dtype, dtype)
    many, step = math.prod(batch), 16 // item_size(dtype)
    a = small_integers(rng, (many, m, k), dtype)
    b = small_integers(rng, (many, k, n) if by_rows else (many, n, k), dtype)
    extra = out != "int32"
    epilogue = Epilogue(out, out if extra else None, dense(batch, m, n) if extra else None, out, activation)
    kernel = Gemm(
        m, n, k, dtype, dense(batch, m, k), dense(batch, *b.shape[1:]), dense(batch, m, n), epilogue, blocking, batch,
        math.gcd(k, step), math.gcd(b.shape[2], step), by_rows,
    )  # fmt: skip
    bias, residual = small_integers(rng, (n,), out), small_integers(rng, (many, m, n), out)
    y = np.zeros((many, m, n), NUMPY[out])

    run(kernel, a, b, *((bias, residual) if extra else ()), y)

    exact = a.astype(np.float64) @ (b if by_rows else b.transpose(0, 2, 1)).astype(np.float64)
    if extra:
        exact = exact + bias.astype(np.float64) + residual.astype(np.float64)
    if activation == "relu":
        exact = np.maximum(exact, 0)
    np.testing.assert_array_equal(y.astype(np.float64), exact)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "tf32", "int8", "float32"])
def test_sizes_that_fit_no_block(dtype: str) -> None:
    product(dtype, 19, 66, 80, activation="relu" if dtype != "int8" else "none")


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (17, 65, 33), (5, 70, 130)])
def test_chunks_as_small_as_sizes_ask_for(m: int, n: int, k: int) -> None:
    product("float16", m, n, k)


def test_second_factor_by_rows() -> None:
    product("float16", 19, 72, 40, by_rows=True)


def test_batches() -> None:
    product("bfloat16", 18, 24, 32, batch=(2, 3))


def test_blocks_of_several_warps() -> None:
    product("float16", 70, 72, 96, blocking=SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("blocking", BLOCKINGS, ids=lambda each: "x".join(map(str, each.block)))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "tf32", "int8", "float32"])
def test_all_blockings(dtype: str, blocking) -> None:
    product(dtype, 150, 136, 200, blocking=blocking)


def test_blocks_in_groups_cover_everything() -> None:
    product("float16", 16 * 9 + 5, 130, 16)


def test_tiles_are_read_without_bank_conflicts() -> None:
    rng = np.random.default_rng(0)
    m, n, k = 128, 64, 64
    kernel = Gemm(m, n, k, "float16", dense((), m, k), dense((), n, k), dense((), m, n), Epilogue("float16"),
                  BLOCKINGS[1], (), 8, 8)  # fmt: skip
    arrays = [small_integers(rng, shape, "float16") for shape in ((m, k), (n, k), (m, n))]

    report = run(kernel, *arrays)

    assert report.excess("shared") == 1.0
    assert report.excess("global") < 1.6  # results are stored in pairs


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "dilation", "padding"),
    [(8, (3, 3), (1, 1), (1, 1), (1, 1)), (4, (3, 2), (2, 1), (1, 2), (0, 1)), (3, (1, 1), (2, 2), (1, 1), (0, 0))],
)
def test_convolution(channels: int, kernel, stride, dilation, padding) -> None:
    rng = np.random.default_rng(0)
    x = small_integers(rng, (2, 7, 6, channels), "float16")
    weight = small_integers(rng, (10, *kernel, channels), "float16")
    exact = torch.nn.functional.conv2d(
        torch.tensor(x.astype(np.float64)).permute(0, 3, 1, 2),
        torch.tensor(weight.astype(np.float64)).permute(0, 3, 1, 2),
        stride=stride, dilation=dilation, padding=padding,
    ).permute(0, 2, 3, 1).numpy()  # fmt: skip
    _, height, width, n = exact.shape
    source = ImageSource(
        (7 * 6 * channels, 6 * channels, channels), (7, 6), channels, (height, width), kernel, stride, dilation, padding
    )
    k = math.prod(kernel) * channels
    gemm = Gemm(2 * height * width, n, k, "float16", source, Matrices((), k), Matrices((), n, 2), Epilogue("float16"),
                TINY, (), math.gcd(channels, 8), math.gcd(k, 8))  # fmt: skip
    y = np.zeros((2 * height * width, n), np.float16)

    run(gemm, x, weight.reshape(n, k), y)

    np.testing.assert_array_equal(y.reshape(exact.shape).astype(np.float64), exact)


def test_small_products_are_cut_into_small_blocks() -> None:
    a100 = ARCHITECTURES["sm_80"]

    assert Gemm.blocking_for(4096, 4096, 1, "float16", a100) == BLOCKINGS[0]
    assert Gemm.blocking_for(16, 768, 1, "float16", a100) == TINY
    assert Gemm.blocking_for(128, 768, 1, "float16", a100).block[0] < 128


def test_nan_flows_through_the_epilogue() -> None:
    kernel = Gemm(1, 2, 8, "float16", Matrices((), 8), Matrices((), 8), Matrices((), 2, 2), Epilogue("float16"),
                  TINY, (), 8, 8)  # fmt: skip
    kernel = replace(kernel, epilogue=Epilogue("float16", activation="relu"))
    a, y = np.full((1, 8), np.nan, np.float16), np.zeros((1, 2), np.float16)

    run(kernel, a, np.ones((2, 8), np.float16), y)

    assert np.isnan(y).all()
