"""Kernels that threads share rows in, evaluated: softmax, norms and reductions of odd sizes and strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from fxpress.backends.cuda.check import Race
from fxpress.backends.cuda.kernels.norm import LayerNorm
from fxpress.backends.cuda.kernels.reduce import Reduce
from fxpress.backends.cuda.kernels.rows import Rows
from fxpress.backends.cuda.kernels.softmax import Softmax

DTYPES: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
EPSILON = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-21}
SHAPES = [(1, 1), (5, 33), (3, 264), (2, 5000)]  # a warp a row, blocks of 128 threads and more; vectors and not


def case(rows: int, size: int, dtype: str) -> tuple[np.ndarray, torch.Tensor, Rows, np.ndarray]:
    """Data, the same in float64, how its rows lie, and room for a result of the same shape."""
    x = np.random.default_rng(size).standard_normal((rows, size)).astype(DTYPES[dtype])
    return x, torch.from_numpy(x.astype(np.float64)), Rows((rows,), size, (size,), 1, dtype), np.full_like(x, np.nan)


def check(got: np.ndarray, want: torch.Tensor, dtype: str) -> None:
    error = np.abs(got.astype(np.float64) - want.numpy())
    assert (error <= EPSILON[dtype] * np.maximum(np.abs(want.numpy()), 1)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(run_kernel: Callable[..., Any], shape: tuple[int, int], dtype: str) -> None:
    x, wide, rows, y = case(*shape, dtype)
    report = run_kernel(Softmax(rows, rows, False, rows.widest(16)), x, y)
    check(y, torch.softmax(wide, 1), dtype)
    assert report.excess("shared") == 1.0


def test_logarithm_of_softmax(run_kernel: Callable[..., Any]) -> None:
    x, wide, rows, y = case(5, 33, "float32")
    run_kernel(Softmax(rows, rows, True, rows.widest(16)), x, y)
    check(y, torch.log_softmax(wide, 1), "float32")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(run_kernel: Callable[..., Any], shape: tuple[int, int], dtype: str) -> None:
    x, wide, rows, y = case(*shape, dtype)
    weight, bias = (np.random.default_rng(s).standard_normal(shape[1]).astype(np.float32) for s in (1, 2))
    run_kernel(LayerNorm(rows, rows, 1e-5, "float32", "float32", False, rows.widest(16)), x, weight, bias, y)
    scale, shift = (torch.from_numpy(each.astype(np.float64)) for each in (weight, bias))
    check(y, torch.nn.functional.layer_norm(wide, shape[1:], scale, shift, 1e-5), dtype)


def test_rms_norm(run_kernel: Callable[..., Any]) -> None:
    x, wide, rows, y = case(3, 264, "float16")
    run_kernel(LayerNorm(rows, rows, 1e-6, None, None, True, rows.widest(16)), x, y)
    check(y, torch.nn.functional.rms_norm(wide, (264,), None, 1e-6), "float16")


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "norm2"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reductions(run_kernel: Callable[..., Any], op: str, shape: tuple[int, int]) -> None:
    x, wide, rows, _ = case(*shape, "float16")
    y = np.full(shape[0], np.nan, np.float32)
    run_kernel(Reduce(op, rows, (1,), "float32", rows.widest(16)), x, y)
    reference = {"max": torch.amax, "min": torch.amin, "norm2": torch.linalg.vector_norm}.get(op) or getattr(torch, op)
    want = reference(wide, dim=1).numpy()
    np.testing.assert_allclose(y, want, atol=2**-22 * np.abs(x.astype(np.float64)).sum(axis=1).max())


def test_rows_down_the_columns(run_kernel: Callable[..., Any]) -> None:
    """Rows whose elements are not adjacent, as in a softmax over the first dimension."""
    x = np.random.default_rng(0).standard_normal((37, 6)).astype(np.float32)
    y = np.full_like(x, np.nan)
    rows = Rows((6,), 37, (1,), 6)
    run_kernel(Softmax(rows, rows), x, y)
    check(y, torch.softmax(torch.from_numpy(x.astype(np.float64)), 0), "float32")


def test_barriers_between_warps_are_needed(run_kernel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, rows, y = case(2, 5000, "float32")
    monkeypatch.setattr("fxpress.backends.cuda.kernels.rows.barrier", lambda: None)
    with pytest.raises(Race, match=r"^read of shared memory must be ordered"):
        run_kernel(Softmax(rows, rows), x, y)
