"""Products on tensor cores, evaluated: random numbers and any shape, judged against the error that rounding allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fxpress.backends.cuda.check import Race
from fxpress.backends.cuda.kernels.epilogue import Epilogue, Matrices
from fxpress.backends.cuda.kernels.gemm import BLOCKINGS, Gemm
from fxpress.backends.cuda.kernels.tiles import wait
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DTYPES: dict[str, Any] = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "int8": np.int8,
}
FACTORS = {"float16": 2**-24, "bfloat16": 2**-24, "tf32": 2**-10, "int8": 0.0}  # relative errors of a product


def chunk_of(extent: int, dtype: str) -> int:
    """Elements that can be copied at once where rows have `extent`."""
    chunk = 16 // np.dtype(DTYPES[dtype]).itemsize
    while extent % chunk:
        chunk //= 2
    return chunk


def random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "int8":
        return rng.integers(-128, 128, shape).astype(np.int8)
    return rng.standard_normal(shape).astype(DTYPES[dtype])


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """What the kernel has to write all of."""
    return np.full(shape, np.nan if np.dtype(dtype).kind != "i" else 123, dtype)


def check(got: np.ndarray, a: np.ndarray, b: np.ndarray, dtype: str) -> None:
    """y must be a @ b.T up to the rounding of factors and of sums."""
    wide = [x.astype(np.float64) for x in (a, b)]
    exact, size = wide[0] @ wide[1].T, np.abs(wide[0]) @ np.abs(wide[1]).T
    factor = 0.0 if dtype == "int8" else 2 * FACTORS[dtype] + (a.shape[-1] + 2) * 2**-24
    assert (np.abs(got.astype(np.float64) - exact) <= factor * size).all()


def gemm(m: int, n: int, k: int, dtype: str, by_rows: bool) -> Gemm:
    width = n if by_rows else k
    return Gemm(
        m,
        n,
        k,
        dtype,
        Matrices((), k),
        Matrices((), width),
        Matrices((), n, 2 - n % 2),
        Epilogue("int32" if dtype == "int8" else "float32"),
        BLOCKINGS[-2],
        (),
        chunk_of(k, dtype),
        chunk_of(width, dtype),
        by_rows,
    )


@given(
    m=st.integers(1, 40),
    n=st.integers(1, 80),
    k=st.integers(1, 100),
    dtype=st.sampled_from([(name, False) for name in DTYPES] + [("float16", True), ("bfloat16", True)]),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape(run_kernel: Callable[..., Any], m: int, n: int, k: int, dtype: tuple[str, bool]) -> None:
    name, by_rows = dtype
    rng = np.random.default_rng(0)
    a, b = random(rng, (m, k), name), random(rng, (n, k), name)
    kernel = gemm(m, n, k, name, by_rows)
    y = empty((m, n), kernel.epilogue.dtype)
    report = run_kernel(kernel, a, np.ascontiguousarray(b.T) if by_rows else b, y)
    check(y, a, b, name)
    assert all(each.excess == 1.0 for each in report.traffic if each.kind == "ldmatrix")


@pytest.mark.parametrize(("name", "wrong"), [("barrier", lambda: None), ("wait", lambda groups: wait(groups + 1))])
def test_what_orders_copies_and_products_is_needed(
    run_kernel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., None]
) -> None:
    kernel = gemm(33, 64, 160, "float16", False)
    arrays = np.zeros((33, 160), np.float16), np.zeros((64, 160), np.float16), np.zeros((33, 64), np.float32)
    run_kernel(kernel, *arrays)
    monkeypatch.setattr(f"fxpress.backends.cuda.kernels.gemm.{name}", wrong)
    with pytest.raises(Race, match=r"^(read|write) of shared memory must (come after cp.async.wait|be ordered)"):
        run_kernel(kernel, *arrays)
