"""Depthwise convolutions and pools, evaluated: strides, dilations and padding of any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fxpress.backends.cuda.kernels.epilogue import Epilogue, Matrices
from fxpress.backends.cuda.kernels.sources import ImageSource
from fxpress.backends.cuda.kernels.window import Window
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

BATCH = 2
small = st.integers(1, 3)
pairs = st.tuples(small, small)


@given(
    op=st.sampled_from(["depthwise", "max", "mean"]),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    channels=st.sampled_from([1, 3, 8]),
    kernel=pairs,
    stride=pairs,
    dilation=pairs,
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape(
    run_kernel: Callable[..., Any],
    op: str,
    size: tuple[int, int],
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    dilation = (1, 1) if op == "mean" else dilation
    padding = (kernel[0] // 2, kernel[1] // 2)
    assume(all(n + 2 * p > (k - 1) * d for n, p, k, d in zip(size, padding, kernel, dilation, strict=True)))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, *size, channels)).astype(np.float32)
    weight = rng.standard_normal((*kernel, channels)).astype(np.float32)
    image = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    if op == "depthwise":
        factors = torch.from_numpy(weight).double().permute(2, 0, 1).unsqueeze(1)
        result = torch.conv2d(image, factors, None, stride, padding, dilation, channels)
    elif op == "max":
        result = torch.nn.functional.max_pool2d(image, kernel, stride, padding, dilation)
    else:
        result = torch.nn.functional.avg_pool2d(image, kernel, stride, padding, count_include_pad=False)
    want = result.permute(0, 2, 3, 1).numpy()
    strides = (size[0] * size[1] * channels, size[1] * channels, channels)
    source = ImageSource(strides, size, channels, (want.shape[1], want.shape[2]), kernel, stride, dilation, padding)
    vector = 4 if channels % 4 == 0 else 1
    window = Window(op, BATCH, source, "float32", Matrices((), channels, vector), Epilogue("float32"), vector)
    y = np.full(want.shape, np.nan, np.float32)
    run_kernel(window, x, *([weight] if op == "depthwise" else []), y)
    np.testing.assert_allclose(y, want, atol=1e-5)
