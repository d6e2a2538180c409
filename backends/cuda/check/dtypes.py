"""TVM's dtypes as NumPy's: an element dtype and how many of it one value holds."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np

_NARROW = {
    "bool": np.bool_,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


@functools.cache
def split(dtype: str) -> tuple[np.dtype, int]:
    """The element and the lanes: "float16x4" is (float16, 4). Raises TypeError for a dtype NumPy has no word for."""
    head, separator, tail = dtype.rpartition("x")
    element, lanes = (head, int(tail)) if separator and tail.isdigit() else (dtype, 1)
    return np.dtype(_NARROW.get(element, element)), lanes


def is_float(dtype: np.dtype) -> bool:
    """Whether the dtype is a floating point one, NumPy's or not."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def compute(dtype: np.dtype) -> np.dtype:
    """The dtype that functions of values of this dtype are computed in before they are rounded to it."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)
