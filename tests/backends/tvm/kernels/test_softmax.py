"""Softmax and log-softmax against PyTorch over any dimension of any view, judged in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.softmax import softmax_kernel
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]


def softmax(x: torch.Tensor, dim: int, target: Target, log: bool) -> torch.Tensor:
    out = torch.zeros(x.shape)
    kernel = softmax_kernel(x.shape, dim, x.stride(), out.stride(), target, log)
    CompiledKernel(kernel, target)(x.numpy(), out.numpy())
    return out


def check(x: torch.Tensor, dim: int, target: Target, log: bool) -> None:
    reference = torch.log_softmax if log else torch.softmax
    ours, theirs, exact = softmax(x, dim, target, log), reference(x, dim), reference(x.double(), dim)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isinf(), theirs.isinf())
    exact, norm = exact.nan_to_num(0, 0, 0), exact.nan_to_num(0, 0, 0).norm().clamp(min=1e-30)
    error = (ours.nan_to_num(0, 0, 0) - exact).norm() / norm
    allowed = max(2 * float((theirs.nan_to_num(0, 0, 0) - exact).norm() / norm), 4 * np.finfo(np.float32).eps)
    assert error <= allowed


@given(st.data())
def test_any_dimension_of_any_view(data: Any) -> None:
    rank = data.draw(st.integers(1, 4))
    shape = [data.draw(st.sampled_from([1, 2, 3, 16, 31, 77])) for _ in range(rank)]
    x = 5 * torch.randn(shape).permute(data.draw(st.permutations(range(rank))))
    dim = data.draw(st.integers(0, rank - 1))
    check(x, dim, data.draw(st.sampled_from(TARGETS)), data.draw(st.booleans()))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("log", [False, True])
def test_masks_nan_and_large_values(target: Target, log: bool) -> None:
    x = torch.randn(9, 45) * 100
    x[0, 3:], x[1, :], x[2, 44], x[3, 0], x[4, 7] = -torch.inf, -torch.inf, torch.nan, torch.inf, torch.nan
    x[5] = 3e38
    for view, dim in ((x, 1), (x.T.contiguous(), 0)):
        check(view, dim, target, log)


def test_errors() -> None:
    with pytest.raises(InvalidInput, match=r"^softmax dimension must be within 0 to 1, not 2$"):
        softmax_kernel((3, 4), 2, (4, 1), (4, 1), TARGETS[0])
