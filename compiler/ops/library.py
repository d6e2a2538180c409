"""Definitions of the `fxpress::` ops as composites of ATen ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .activation import activate

_LIBRARY: Any = torch.library.Library("fxpress", "DEF")  # type: ignore[no-untyped-call]
fxpress = torch.ops.fxpress


def define(schema: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = schema.split("(", 1)[0]
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, function, "CompositeImplicitAutograd")
        return function

    return add


def channels_first(x: Tensor, channels_last: bool) -> Tensor:
    return x.movedim(-1, 1) if channels_last else x


def restore(x: Tensor, channels_last: bool) -> Tensor:
    return x.movedim(1, -1).contiguous() if channels_last else x


def pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Zero-pad the spatial dims of a channels-first tensor by (before, after) pairs, first spatial dim first."""
    pairs = [tuple(padding[i : i + 2]) for i in range(0, len(padding), 2)]
    return F.pad(x, [p for pair in reversed(pairs) for p in pair]) if any(padding) else x


@define(
    "conv(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, int[] dilation, "
    "int groups, str activation, bool channels_last) -> Tensor"
)
def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    channels_last: bool,
) -> Tensor:
    """activation(convolution(x, weight) + bias + residual) in one or two dimensions.

    weight is [oc, ic/groups, *kernel]; padding holds (before, after) for each spatial dim; residual has the output's
    shape and order.
    """
    convolution = F.conv1d if weight.dim() == 3 else F.conv2d
    y = convolution(
        pad(channels_first(x, channels_last), padding), weight, bias, stride=stride, dilation=dilation, groups=groups
    )
    y = restore(y, channels_last)
    return activate(y if residual is None else y + residual, activation)


@define(
    "conv_transpose(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] output_padding, "
    "int[] dilation, int groups, str activation, bool channels_last) -> Tensor"
)
def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    channels_last: bool,
) -> Tensor:
    """activation(transposed convolution(x, weight) + bias), in 1-D or 2-D; weight is [ic, oc/groups, *kernel]."""
    convolution = F.conv_transpose1d if weight.dim() == 3 else F.conv_transpose2d
    y = convolution(
        channels_first(x, channels_last),
        weight,
        bias,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    return activate(restore(y, channels_last), activation)


@define("linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str activation) -> Tensor")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    """activation(x @ weight.T + bias + residual); weight is [n, k], residual has the output's shape."""
    y = F.linear(x, weight, bias)
    return activate(y if residual is None else y + residual, activation)


@define(
    "max_pool(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil_mode, bool channels_last)"
    " -> Tensor"
)
def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    channels_last: bool,
) -> Tensor:
    """Max pooling in one to three dimensions; padding (one number a dim, both sides) counts as -infinity."""
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    y = pool(channels_first(x, channels_last), kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    return restore(y, channels_last)


@define(
    "avg_pool(Tensor x, int[] kernel, int[] stride, int[] padding, bool ceil_mode, bool count_include_pad, "
    "int? divisor, bool channels_last) -> Tensor"
)
def _avg_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
    channels_last: bool,
) -> Tensor:
    """Average pooling in one to three dimensions; `divisor` replaces the window's size (from two dimensions on)."""
    x = channels_first(x, channels_last)
    if len(kernel) == 1:
        y = F.avg_pool1d(x, list(kernel), list(stride), list(padding), ceil_mode, count_include_pad)
    else:
        pool = F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
        y = pool(x, list(kernel), list(stride), list(padding), ceil_mode, count_include_pad, divisor)
    return restore(y, channels_last)


@define("adaptive_avg_pool(Tensor x, int[] size, bool channels_last) -> Tensor")
def _adaptive_avg_pool(x: Tensor, size: Sequence[int], channels_last: bool) -> Tensor:
    """Average pooling to a given output size in one to three dimensions."""
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    return restore(pool(channels_first(x, channels_last), size), channels_last)


@define("adaptive_max_pool(Tensor x, int[] size, bool channels_last) -> Tensor")
def _adaptive_max_pool(x: Tensor, size: Sequence[int], channels_last: bool) -> Tensor:
    """Max pooling to a given output size in one to three dimensions."""
    pool: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[len(size) - 1]
    return restore(pool(channels_first(x, channels_last), size), channels_last)


@define("resize(Tensor x, int[] size, float[]? scales, str mode, bool align_corners, bool channels_last) -> Tensor")
def _resize(
    x: Tensor,
    size: Sequence[int],
    scales: Sequence[float] | None,
    mode: str,
    align_corners: bool,
    channels_last: bool,
) -> Tensor:
    """Interpolate the spatial dims to `size`. mode: nearest, nearest-exact, linear (1-D), bilinear, bicubic (2-D) or
    trilinear (3-D).

    `scales`, when given, replace size ratios in the coordinate mapping, as PyTorch's upsample ops take them.
    """
    x = channels_first(x, channels_last)
    aten = torch.ops.aten
    factors = list(scales) if scales is not None else [None] * len(size)
    if mode == "nearest":
        y = getattr(aten, f"upsample_nearest{len(size)}d")(x, size, *factors)
    elif mode == "nearest-exact":
        y = getattr(aten, f"_upsample_nearest_exact{len(size)}d")(x, size, *factors)
    elif mode in ("linear", "bilinear", "bicubic", "trilinear"):
        y = getattr(aten, f"upsample_{mode}{len(size)}d")(x, size, align_corners, *factors)
    else:
        raise ValueError(
            f"resize mode must be nearest, nearest-exact, linear, bilinear, bicubic or trilinear, not {mode!r}"
        )
    return restore(y, channels_last)


@define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor attn_mask, float? fill, float scale, bool enable_gqa)"
    " -> Tensor"
)
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor,
    fill: float | None,
    scale: float,
    enable_gqa: bool,
) -> Tensor:
    """softmax(query @ key.T * scale + attn_mask) @ value of [batch, heads, rows, depth], heads grouped if `enable_gqa`.

    With `fill` the mask is bool, and scores where it is false become that number. Unlike scaled_dot_product_attention,
    a row whose scores are all -inf gives NaN, as softmax does.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = query @ key.transpose(-1, -2) * scale
    scores = scores + attn_mask if fill is None else torch.where(attn_mask, scores, fill)
    return scores.softmax(-1) @ value


@define("group_norm(Tensor x, int groups, Tensor? weight, Tensor? bias, float eps, bool channels_last) -> Tensor")
def _group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, channels_last: bool
) -> Tensor:
    """Group normalisation over channel groups and all spatial dims."""
    return restore(F.group_norm(channels_first(x, channels_last), groups, weight, bias, eps), channels_last)
