"""Resampling against PyTorch: every mode, given scales, aligned corners, both layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.resize import resize_kernel
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]
NAMES = {"linear": {1: "linear", 2: "bilinear"}, "cubic": {2: "bicubic"}}


@given(st.data())
def test_every_mode(data: Any) -> None:
    mode = data.draw(st.sampled_from(["nearest", "nearest-exact", "linear", "cubic"]))
    rank = 2 if mode == "cubic" else data.draw(st.integers(1, 2))
    sizes = [data.draw(st.integers(1, 9)) for _ in range(rank)]
    x = torch.randn(data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 3, 16, 21])), *sizes)
    if data.draw(st.booleans()):
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    align = data.draw(st.booleans()) if mode in NAMES else None
    theirs = NAMES.get(mode, {}).get(rank, mode)
    factor = data.draw(st.sampled_from([None, 1.7, 2.0, 3.0, 0.6]))
    factor = factor if factor is None or min(int(n * factor) for n in sizes) >= 1 else 2.0
    if factor is None:
        expected = F.interpolate(x, [data.draw(st.integers(1, 20)) for _ in sizes], mode=theirs, align_corners=align)
    else:
        expected = F.interpolate(x, scale_factor=factor, mode=theirs, align_corners=align)
    target, out = data.draw(st.sampled_from(TARGETS)), torch.empty_strided(expected.shape, expected.stride())
    kernel = resize_kernel(
        mode,
        x.shape,
        expected.shape[2:],
        x.stride(),
        out.stride(),
        target,
        align_corners=bool(align),
        scale_factors=None if factor is None else [factor] * rank,
    )
    CompiledKernel(kernel, target)(x.numpy(), out.numpy())
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_errors() -> None:
    with pytest.raises(InvalidInput, match=r"^resize mode must be one of \[.*\], not 'area'$"):
        resize_kernel("area", (1, 2, 3), (3,), (6, 3, 1), (6, 3, 1), TARGETS[0])
    with pytest.raises(InvalidInput, match=r"^resized image must have at least one pixel, not shape \(1, 2, 0\)$"):
        resize_kernel("nearest", (1, 2, 0), (3,), (6, 3, 1), (6, 3, 1), TARGETS[0])
