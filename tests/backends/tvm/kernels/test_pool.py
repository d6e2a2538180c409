"""Pooling against PyTorch: windows, padding, dilation, ceil mode, adaptive sizes, both layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.pool import Window, pool_kernel
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]


def pool(
    op: str, x: torch.Tensor, expected: torch.Tensor, windows: list[Window], target: Target, **options: Any
) -> None:
    last = x.stride(1) == 1
    out = torch.zeros(expected.shape)
    out = out.movedim(1, -1).contiguous().movedim(-1, 1) if last else out
    kernel = pool_kernel(op, x.shape, expected.shape[2:], windows, x.stride(), out.stride(), target, **options)
    CompiledKernel(kernel, target)(x.numpy(), out.numpy())
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def image(data: Any, rank: int, smallest: int) -> torch.Tensor:
    sizes = [data.draw(st.integers(smallest, 13)) for _ in range(rank)]
    x = torch.randn(data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 3, 16, 35])), *sizes)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if data.draw(st.booleans()) else x


@given(st.data())
def test_sliding_windows(data: Any) -> None:
    rank = data.draw(st.integers(1, 2))
    kernel, stride = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    padding, ceil = data.draw(st.integers(0, kernel // 2)), data.draw(st.booleans())
    x, target = image(data, rank, 7), data.draw(st.sampled_from(TARGETS))
    if data.draw(st.booleans()):
        dilation = data.draw(st.integers(1, 2))
        function = F.max_pool1d if rank == 1 else F.max_pool2d
        expected = function(x, kernel, stride, padding, dilation, ceil)
        pool("max", x, expected, [Window(kernel, stride, padding, dilation)] * rank, target)
        return
    include, function = data.draw(st.booleans()), F.avg_pool1d if rank == 1 else F.avg_pool2d
    divisor = data.draw(st.sampled_from([None, 5])) if rank == 2 else None
    extra = {} if rank == 1 else {"divisor_override": divisor}
    expected = function(x, kernel, stride, padding, ceil, include, **extra)
    windows = [Window(kernel, stride, padding)] * rank
    pool("avg", x, expected, windows, target, count_include_pad=include, divisor=divisor or 0)


@given(st.data())
def test_adaptive(data: Any) -> None:
    x, target = image(data, 2, 1), data.draw(st.sampled_from(TARGETS))
    out = [data.draw(st.integers(1, 8)) for _ in range(2)]
    pool("avg", x, F.adaptive_avg_pool2d(x, out), [], target)
    pool("max", x, F.adaptive_max_pool2d(x, out), [], target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_nan_and_infinity(target: Target) -> None:
    x = torch.randn(1, 16, 9, 9)
    x[0, 2, 4, 4], x[0, 3, 0, 0], x[0, 4] = torch.nan, torch.nan, -torch.inf
    x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    pool("max", x, F.max_pool2d(x, 3, 2, 1), [Window(3, 2, 1)] * 2, target)
    pool("avg", x, F.avg_pool2d(x, 3, 2, 1), [Window(3, 2, 1)] * 2, target)


def test_errors() -> None:
    with pytest.raises(InvalidInput, match=r"^pooling must be one of \['avg', 'max'\], not 'mean'$"):
        pool_kernel("mean", (1, 2, 3), (3,), [], (6, 3, 1), (6, 3, 1), TARGETS[0])
    with pytest.raises(InvalidInput, match=r"^pooling windows must be 1 many, not 2$"):
        pool_kernel("max", (1, 2, 3), (3,), [Window(1, 1)] * 2, (6, 3, 1), (6, 3, 1), TARGETS[0])
