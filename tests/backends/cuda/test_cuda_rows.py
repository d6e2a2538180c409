"""Softmax, norms and reductions, evaluated against float64: warps and blocks a row, ragged rows, strides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_kernels import EPSILON, NUMPY, run
from fxpress.backends.cuda.kernels.norm import LayerNorm
from fxpress.backends.cuda.kernels.reduce import REDUCTIONS, Reduce
from fxpress.backends.cuda.kernels.rows import Rows
from fxpress.backends.cuda.kernels.softmax import Softmax

CASES = [("float32", 5, 77), ("float16", 7, 128), ("bfloat16", 2, 2048)]
LONG = ("float32", 1, 40001)  # more than threads keep in registers


def random_rows(dtype: str, rows: int, size: int) -> tuple[np.ndarray, Rows, int]:
    x = np.random.default_rng(0).normal(size=(rows, size)).astype(NUMPY[dtype])
    place = Rows((rows,), size, (size,), 1, dtype)
    return x, place, place.widest(16)


def wide(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x.astype(np.float64))


def assert_near(found: np.ndarray, exact: torch.Tensor, dtype: str) -> None:
    np.testing.assert_allclose(
        found.astype(np.float64), exact.numpy(), rtol=4 * EPSILON[dtype], atol=4 * EPSILON[dtype]
    )


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("dtype", "rows", "size"), [*CASES, LONG])
def test_softmax(dtype: str, rows: int, size: int, log: bool) -> None:
    x, place, vector = random_rows(dtype, rows, size)
    y = np.zeros_like(x)

    run(Softmax(place, place, log, vector), x, y)

    assert_near(y, (torch.log_softmax if log else torch.softmax)(wide(x), -1), dtype)


def test_softmax_of_infinities_is_that_of_pytorch() -> None:
    inf = np.inf
    x = np.array([[-inf, -inf], [inf, 0], [-inf, 3], [np.nan, 0]], np.float32)
    y, place = np.zeros_like(x), Rows((4,), 2, (2,))

    run(Softmax(place, place), x, y)

    np.testing.assert_array_equal(y, torch.softmax(torch.tensor(x), -1).numpy())


def test_softmax_along_strides() -> None:
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    y, place = np.zeros_like(x), Rows((4,), 9, (1,), 4)

    run(Softmax(place, place), x, y)

    assert_near(y, torch.softmax(wide(x), 0), "float32")


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize(("dtype", "rows", "size"), CASES)
def test_norm(dtype: str, rows: int, size: int, rms: bool) -> None:
    x, place, vector = random_rows(dtype, rows, size)
    weight, y = x[0].copy(), np.zeros_like(x)
    bias = [] if rms else [weight]

    run(LayerNorm(place, place, 1e-5, dtype, None if rms else dtype, rms, vector), x, weight, *bias, y)

    w = wide(weight)
    exact = torch.rms_norm(wide(x), (size,), w, 1e-5) if rms else torch.layer_norm(wide(x), (size,), w, w)
    np.testing.assert_allclose(y.astype(np.float64), exact.numpy(), rtol=4 * EPSILON[dtype], atol=16 * EPSILON[dtype])


NUMPYS = {
    "sum": np.sum, "mean": np.mean, "prod": np.prod, "max": np.max, "min": np.min,
    "norm1": lambda x, axis: np.abs(x).sum(axis), "norm2": lambda x, axis: np.sqrt((x * x).sum(axis)),
    "norm_inf": lambda x, axis: np.abs(x).max(axis),
}  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions(op: str) -> None:
    x, place, vector = random_rows("float32", 6, 70)
    y = np.zeros(6, np.float32)

    run(Reduce(op, place, (1,), "float32", vector), x, y)

    np.testing.assert_allclose(y, NUMPYS[op](x.astype(np.float64), axis=1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("op", ["max", "min", "sum"])
def test_reductions_of_nan_are_nan(op: str) -> None:
    x = np.zeros((2, 40), np.float32)
    x[0, 33] = np.nan
    y = np.zeros(2, np.float32)

    run(Reduce(op, Rows((2,), 40, (40,)), (1,), "float32"), x, y)

    assert np.isnan(y[0])
    assert y[1] == 0


def test_reduction_by_a_block() -> None:
    x, place, vector = random_rows("float16", 2, 3000)
    y = np.zeros(2, np.float16)

    run(Reduce("mean", place, (1,), "float16", vector), x, y)

    np.testing.assert_allclose(y.astype(np.float64), x.astype(np.float64).mean(1), atol=1e-4)
