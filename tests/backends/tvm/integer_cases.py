"""Arguments of quantised convolutions and linear layers: results that fill and exceed the range of 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from fxpress.ops import fxpress
from single_op import Case
from torch import Tensor

TARGETS = ("cpu", "cpu{isa=avx512}", "cpu{isa=avx2}", "cpu{isa=avx2,extensions=avxvnni}")
VALUES = ("random", "lowest", "highest")


def integers(shape: Sequence[int], values: str = "random", low: int = -128, seed: int = 0) -> Tensor:
    """int8 values from `low` to 127: random ones, or all the lowest or the highest."""
    if values == "random":
        generator = torch.Generator().manual_seed(seed + sum(shape))
        return torch.randint(low, 128, tuple(shape), generator=generator, dtype=torch.int32).to(torch.int8)
    return torch.full(tuple(shape), low if values == "lowest" else 127, dtype=torch.int8)


def conv_case(
    x_shape: Sequence[int],
    oc: int,
    kernel: Sequence[int],
    *,
    mode: str = "F",
    residual: bool = False,
    channels_last: bool = True,
    stride: int = 1,
    padding: Sequence[int] = (),
    dilation: int = 1,
    groups: int = 1,
    **others: Any,
) -> Case:
    """A convolution of x [n, ic, *spatial]; `others` are those of `_layer`."""
    rank = len(kernel)
    where = {
        "stride": [stride] * rank,
        "padding": list(padding) or [0] * (2 * rank),
        "dilation": [dilation] * rank,
        "groups": groups,
        "channels_last": channels_last,
    }
    sizes = [
        (size + sum(where["padding"][2 * d : 2 * d + 2]) - dilation * (kernel[d] - 1) - 1) // stride + 1
        for d, size in enumerate(x_shape[2:])
    ]
    shapes = [list(x_shape), [x_shape[0], oc, *sizes]]
    if channels_last:
        shapes = [[n, *spatial, c] for n, c, *spatial in shapes]
    weight = [oc, x_shape[1] // groups, *kernel]
    op = fxpress.quantized_conv_float if mode == "float" else fxpress.quantized_conv
    return op.default, {**_layer(shapes[0], weight, shapes[1] if residual else None, mode, **others), **where}


def linear_case(
    x_shape: Sequence[int], n: int, *, mode: str = "F", residual: Sequence[int] | None = None, **others: Any
) -> Case:
    """A linear layer; `residual` is the shape of what is added."""
    op = fxpress.quantized_linear_float if mode == "float" else fxpress.quantized_linear
    return op.default, _layer(x_shape, [n, x_shape[-1]], residual, mode, **others)


def _layer(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    residual: Sequence[int] | None,
    mode: str,
    x_values: str = "random",
    weight_values: str = "random",
    low: int = -128,
    high: int = 127,
    activation: str = "relu",
) -> dict[str, Any]:
    """All arguments that any of the ops has, but for those of convolutions alone."""
    generator = torch.Generator().manual_seed(1)
    oc, depth = weight_shape[0], math.prod(weight_shape[1:])
    added = None
    if residual is not None:
        added = torch.randn(tuple(residual), generator=generator) if mode == "float" else integers(residual, seed=3)
    x_scale, x_zero = 0.0123, -17
    return {
        "x": integers(x_shape, x_values),
        "weight": integers(weight_shape, weight_values, low=-127, seed=5),
        "bias": torch.randint(-9999, 9999, (oc,), generator=generator, dtype=torch.int32),
        "residual": added,
        "weight_scale": torch.rand(oc, generator=generator) * 0.01 + 0.001,
        "x_scale": x_scale,
        "x_zero": x_zero,
        "residual_scale": 0.031,
        "residual_zero": 9,
        "y_scale": x_scale * 0.005 * math.sqrt(depth) * 74 * 74 / 60,
        "y_zero": 3,
        "low": low,
        "high": high,
        "mode": mode,
        "activation": activation,
    }
