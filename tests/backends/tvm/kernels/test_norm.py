"""Normalisations against PyTorch in both layouts, judged in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fxpress.backends.tvm.kernels.group_norm import group_norm_kernel
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.norm import layer_norm_kernel
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import assume, given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor) -> None:
    norm = exact.norm().clamp(min=1e-30)
    allowed = max(2 * float((theirs - exact).norm() / norm), 4 * np.finfo(np.float32).eps)
    assert (ours - exact).norm() / norm <= allowed


@given(st.data())
def test_layer_norm(data: Any) -> None:
    shape = [data.draw(st.sampled_from([1, 2, 5, 16, 67, 200])) for _ in range(data.draw(st.integers(1, 3)))]
    trailing = data.draw(st.integers(1, len(shape)))
    weight, bias, rms, residual = (data.draw(st.booleans()) for _ in range(4))
    target = data.draw(st.sampled_from(TARGETS))
    x, r = 3 * torch.randn(shape) + 1, torch.randn(shape)
    inner = shape[-trailing:]
    w, b = torch.randn(inner), torch.randn(inner)

    def reference(dtype: torch.dtype) -> torch.Tensor:
        value = x.to(dtype) + r.to(dtype) if residual else x.to(dtype)
        scale, shift = (w.to(dtype) if weight else None), (b.to(dtype) if bias else None)
        if not rms:
            return F.layer_norm(value, inner, scale, shift, 1e-5)
        value = F.rms_norm(value, inner, scale, 1e-5)
        return value if shift is None else value + shift

    kernel = layer_norm_kernel(
        shape,
        trailing,
        x.stride(),
        x.stride(),
        1e-5,
        target,
        weight=weight,
        bias=bias,
        rms=rms,
        residual=residual,
    )
    out = torch.zeros(shape)
    operands = [x, *[r] * residual, *[w] * weight, *[b] * bias, out]
    CompiledKernel(kernel, target)(*(t.numpy() for t in operands))
    assert_close(out, reference(torch.float32), reference(torch.float64))


@given(st.data())
def test_group_norm(data: Any) -> None:
    groups, size = data.draw(st.sampled_from([1, 2, 3, 8])), data.draw(st.sampled_from([1, 2, 5, 16]))
    spatial = [data.draw(st.sampled_from([1, 3, 7, 20])) for _ in range(data.draw(st.integers(0, 2)))]
    assume(size * np.prod(spatial) > 1)  # PyTorch refuses groups of a single value
    x = 2 * torch.randn(data.draw(st.integers(1, 2)), groups * size, *spatial) + 1
    if data.draw(st.booleans()):
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight, bias = data.draw(st.booleans()), data.draw(st.booleans())
    w, b, target = torch.randn(groups * size), torch.randn(groups * size), data.draw(st.sampled_from(TARGETS))
    out = torch.empty_strided(x.shape, x.stride())
    kernel = group_norm_kernel(x.shape, groups, x.stride(), out.stride(), 1e-3, target, weight=weight, bias=bias)
    CompiledKernel(kernel, target)(*(t.numpy() for t in [x, *[w] * weight, *[b] * bias, out]))

    def reference(dtype: torch.dtype) -> torch.Tensor:
        scale, shift = (w.to(dtype) if weight else None), (b.to(dtype) if bias else None)
        return F.group_norm(x.to(dtype), groups, scale, shift, 1e-3)

    assert_close(out, reference(torch.float32), reference(torch.float64))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_nan_stays_in_its_row(target: Target) -> None:
    x = torch.randn(4, 40)
    x[1, 3], x[2, 39] = torch.nan, torch.inf
    out, w = torch.zeros(4, 40), torch.ones(40)
    CompiledKernel(layer_norm_kernel((4, 40), 1, (40, 1), (40, 1), 1e-5, target), target)(
        *(t.numpy() for t in (x, w, w, out))
    )
    assert out.isnan().any(1).tolist() == [False, True, True, False]
    assert out.isnan().all(1).tolist() == [False, True, True, False]


def test_errors() -> None:
    with pytest.raises(
        InvalidInput, match=r"^normalised dimensions must be dense, not of strides \(1, 3\); copy the view$"
    ):
        layer_norm_kernel((3, 4), 1, (1, 3), (4, 1), 1e-5, TARGETS[0])
    with pytest.raises(InvalidInput, match=r"^normalised dimensions must be 1 to 2 many, not 3$"):
        layer_norm_kernel((3, 4), 3, (4, 1), (4, 1), 1e-5, TARGETS[0])
    with pytest.raises(InvalidInput, match=r"^groups must divide the 6 channels, not 4$"):
        group_norm_kernel((1, 6, 2), 4, (12, 2, 1), (12, 2, 1), 1e-5, TARGETS[0])
