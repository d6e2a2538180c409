"""Rows picked by index, evaluated."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_kernels import NUMPY, run
from fxpress.backends.cuda.kernels.lookup import Lookup


@pytest.mark.parametrize(("dtype", "inner", "vector"), [("float16", 24, 8), ("float32", 7, 1), ("bfloat16", 6, 2)])
@pytest.mark.parametrize("ids_dtype", ["int32", "int64"])
def test_rows(dtype: str, inner: int, vector: int, ids_dtype: str) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(11, inner)).astype(NUMPY[dtype])
    ids = rng.integers(0, 11, 50).astype(ids_dtype)
    y = np.zeros((50, inner), NUMPY[dtype])

    run(Lookup(11, inner, 50, ids_dtype, dtype, vector), table, ids, y)

    np.testing.assert_array_equal(y, table[ids])


def test_indices_beyond_the_table_read_nothing_else() -> None:
    table, y = np.arange(6, dtype=np.float32).reshape(3, 2), np.zeros((3, 2), np.float32)

    run(Lookup(3, 2, 3, "int64", "float32", 2), table, np.array([-5, 1, 99]), y)

    np.testing.assert_array_equal(y, table)
