"""Sorting against PyTorch: sizes, layouts, ties, NaN, and threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.sort import sort_kernel
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGET = Target.parse("cpu{isa=avx2,cores=2}")


def sort(x: torch.Tensor, dim: int, count: int, descending: bool) -> tuple[torch.Tensor, torch.Tensor]:
    shape = [count if d == dim else n for d, n in enumerate(x.shape)]
    values, indices = torch.zeros(shape, dtype=x.dtype), torch.zeros(shape, dtype=torch.int64)
    dtype = str(x.dtype).removeprefix("torch.")
    strides = x.stride(), values.stride(), indices.stride()
    kernel = sort_kernel(tuple(x.shape), dim, count, descending, dtype, *strides, TARGET)
    CompiledKernel(kernel, TARGET)(x.numpy(), values.numpy(), indices.numpy())
    return values, indices


@given(st.data())
def test_sort_is_stable_sort(data: Any) -> None:
    size, rows = data.draw(st.sampled_from([1, 2, 3, 16, 31, 100])), data.draw(st.sampled_from([1, 3, 40]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.int64, torch.uint8]))
    x = torch.randint(0, 20, (size, rows)).to(dtype)
    dim = data.draw(st.integers(0, 1))
    x = x if dim == 0 else x.T
    if dtype.is_floating_point:
        x[torch.rand(x.shape) < 0.1] = float("nan")
    count, descending = data.draw(st.integers(0, size)), data.draw(st.booleans())
    values, indices = sort(x, dim, count, descending)
    expected = x.sort(dim=dim, descending=descending, stable=True)
    assert torch.equal(indices, expected.indices.narrow(dim, 0, count))
    assert torch.equal(values.nan_to_num(nan=99), expected.values.narrow(dim, 0, count).nan_to_num(nan=99))


def test_threads_share_the_rows() -> None:
    x = torch.randn(64, 200)
    values, indices = sort(x, 1, 200, False)
    assert torch.equal(values, x.sort(1).values)
    assert torch.equal(x.gather(1, indices), values)


def test_count_is_at_most_the_size() -> None:
    with pytest.raises(InvalidInput, match=r"^sort count must be at most 3, not 4$"):
        sort(torch.zeros(3), 0, 4, False)
