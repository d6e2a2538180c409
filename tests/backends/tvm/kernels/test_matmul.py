"""Batched matrix products against torch in float64, over broadcast and transposed operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.matmul import MatMul, Matrix
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]
SIZES = st.sampled_from([1, 2, 7, 16, 19, 33, 64, 90])


def check(target: Target, batch: tuple[int, ...], a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> None:
    def matrix(x: torch.Tensor) -> Matrix:
        strides = x.expand(*batch, *x.shape[-2:]).stride()
        return Matrix(tuple(strides[:-2]), *strides[-2:])

    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    kernel = MatMul.choose(batch, m, n, k, target=target, a=matrix(a), b=matrix(b), scale=scale)
    y = np.full((*batch, m, n), np.nan, np.float32)
    CompiledKernel(kernel, target)(a.numpy(), b.numpy(), y)
    exact = scale * (a.double() @ b.double())
    norm = exact.norm().clamp(min=1e-30)
    single = (scale * (a @ b) - exact).norm() / norm
    assert (torch.from_numpy(y) - exact).norm() / norm <= max(2 * float(single), 4 * np.finfo(np.float32).eps)


@given(st.data())
def test_any_shape_and_order(data: Any) -> None:
    batch = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3]), max_size=2)))
    m, n, k = (data.draw(SIZES) for _ in range(3))

    def operand(rows: int, columns: int) -> torch.Tensor:
        shape = [1 if data.draw(st.booleans()) else size for size in batch]
        if data.draw(st.booleans()):
            return torch.randn(*shape, columns, rows).transpose(-1, -2)
        return torch.randn(*shape, rows, columns)

    target, scale = data.draw(st.sampled_from(TARGETS)), data.draw(st.sampled_from([1.0, 0.3]))
    check(target, batch, operand(m, k), operand(k, n), scale)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_one_matrix_is_cut_for_the_cores(target: Target) -> None:
    check(target, (), torch.randn(150, 40), torch.randn(20, 40).T)
    check(target, (), torch.randn(3, 40), torch.randn(40, 333))
