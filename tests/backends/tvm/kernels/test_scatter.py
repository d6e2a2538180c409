"""Scatter along a dimension, against PyTorch: every op, views, numbers that meet, NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.scatter import COMBINE, scatter_kernel
from fxpress.errors import InvalidInput
from fxpress.target import Target

TARGET = Target.parse("cpu{cores=2}")


def scattered(op: str, x: torch.Tensor, dim: int, ids: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    y = x.clone(memory_format=torch.contiguous_format)
    names = (str(t.dtype).removeprefix("torch.") for t in (ids, x))
    strides = ids.stride(), source.stride(), y.stride()
    kernel = scatter_kernel(op, ids.shape, dim, x.shape[dim], *names, *strides, TARGET)
    CompiledKernel(kernel, TARGET)(ids.numpy(), source.numpy(), y.numpy())
    return y


@pytest.mark.parametrize("op", [op for op in COMBINE if op != "put"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_reductions(op: str, dtype: torch.dtype, dim: int) -> None:
    x, source = (torch.randn(5, 6, 7).mul(10).to(dtype) for _ in range(2))
    ids = torch.randint(0, 5, (4, 5, 6))
    if dtype == torch.float32:
        x[0, 1, 2], source[1, 2, 3] = torch.nan, torch.nan
    expected = x.scatter_reduce(dim, ids, source, op)
    torch.testing.assert_close(scattered(op, x, dim, ids, source), expected, rtol=1e-5, atol=0, equal_nan=True)


def test_put_takes_views_and_int32() -> None:
    x, source, ids = torch.randn(5, 6), torch.randn(3, 6).T, torch.stack([torch.randperm(5)[:3]] * 6).to(torch.int32)
    expected = x.scatter(0, ids.T.long(), source.T)
    assert torch.equal(scattered("put", x, 0, ids.T, source.T), expected)


def test_many_numbers_between_threads() -> None:
    x, ids, source = torch.zeros(300, 7), torch.randint(0, 7, (300, 200)), torch.ones(300, 200)
    assert torch.equal(scattered("sum", x, 1, ids, source), x.scatter_add(1, ids, source))


def test_ids_out_of_range_stay_inside() -> None:
    y = scattered("put", torch.zeros(3), 0, torch.tensor([-7, 9]), torch.tensor([1.0, 2.0]))
    np.testing.assert_array_equal(y, [1, 0, 2])


def test_unknown_op() -> None:
    with pytest.raises(InvalidInput, match=r"^scatter must be one of \[.*\], not 'mean'$"):
        scatter_kernel("mean", (1,), 0, 1, "int64", "float32", (1,), (1,), (1,), TARGET)
