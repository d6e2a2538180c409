"""Definitions of the quantised ops: 8-bit integers in, 8-bit integers or float32 out, exact to the bit.

A quantised value is int8 with a scale and a zero point: real = (integer - zero) * scale. The value does not carry them,
the ops that read and write it do. Weights are symmetric, in [-127, 127], with one scale an output channel. Accumulators
are 32-bit integers, computed here in float64, where every integer up to 2^53 is exact. `bias` is int32 and already has
the zero point folded in: round(bias / (x_scale * weight_scale)) - x_zero * sum(weight). `mode` says how results are
requantised (requantization.py); `low`, `high` carry relu, relu6 and clamp.

An op whose name ends in `_float` gives float32: activation(float32(accumulator) * scale + residual).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .activation import activate
from .library import channels_first, define, pad, restore
from .requantization import HIGHEST, LOWEST, requantize


def real(number: float, like: Tensor) -> Tensor:
    """A number as a float64 tensor."""
    return torch.full((), number, dtype=torch.float64, device=like.device)  # a constant tensor does not export


def _channels(values: Tensor, rank: int, channels_last: bool) -> Tensor:
    """Per-channel values shaped to broadcast against a value of that rank."""
    return values if channels_last else values.reshape(-1, *[1] * (rank - 2))


@define("quantize(Tensor x, float scale, int zero_point) -> Tensor")
def _quantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """clip(round(x * float32(1 / scale)) + zero_point, -128, 127) of a float32 value; NaN becomes -128."""
    inverse = (1 / real(scale, x)).to(torch.float32)
    y = torch.round(x.to(torch.float32) * inverse).clamp(LOWEST - zero_point, HIGHEST - zero_point) + zero_point
    return torch.where(y.isnan(), float(LOWEST), y).to(torch.int8)


@define("dequantize(Tensor x, float scale, int zero_point) -> Tensor")
def _dequantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """float32(x - zero_point) * float32(scale)."""
    return (x.to(torch.float32) - zero_point) * real(scale, x).to(torch.float32)


@define(
    "requantize(Tensor x, float x_scale, int x_zero, float y_scale, int y_zero, int low, int high, str mode) -> Tensor"
)
def _requantize(
    x: Tensor, x_scale: float, x_zero: int, y_scale: float, y_zero: int, low: int, high: int, mode: str
) -> Tensor:
    """The same value with another scale and zero point."""
    return requantize([(x.to(torch.int32) - x_zero, real(x_scale, x) / y_scale)], y_zero, low, high, mode)


@define("lookup(Tensor x, Tensor table) -> Tensor")
def _lookup(x: Tensor, table: Tensor) -> Tensor:
    """table[x + 128] for an int8 table of 256 entries: any function of one quantised value."""
    return table[x.to(torch.int64) - LOWEST]


def conv_sums(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_zero: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels_last: bool,
) -> Tensor:
    """The accumulators of a convolution, channels first, int32. Padding has the value `x_zero`."""
    convolution = F.conv1d if weight.dim() == 3 else F.conv2d
    # padding with 0 pads x - x_zero, whose accumulator lacks x_zero * sum(weight): give it back
    shifted = pad(channels_first(x, channels_last).to(torch.float64) - x_zero, padding)
    wide = weight.to(torch.float64)
    sums = convolution(shifted, wide, None, stride=stride, dilation=dilation, groups=groups)
    whole = bias.to(torch.float64) + x_zero * wide.flatten(1).sum(1)
    return (sums + _channels(whole, x.dim(), False)).to(torch.int32)


@define(
    "quantized_conv(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor weight_scale, float x_scale, "
    "int x_zero, float residual_scale, int residual_zero, float y_scale, int y_zero, int low, int high, int[] stride, "
    "int[] padding, int[] dilation, int groups, str mode, bool channels_last) -> Tensor"
)
def _quantized_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    weight_scale: Tensor,
    x_scale: float,
    x_zero: int,
    residual_scale: float,
    residual_zero: int,
    y_scale: float,
    y_zero: int,
    low: int,
    high: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    mode: str,
    channels_last: bool,
) -> Tensor:
    """Convolution (with `residual` added before rounding) in one or two dimensions; weight is [oc, ic/groups, *kernel].

    `padding` holds (before, after) for each spatial dim; padded elements have the value `x_zero`.
    """
    sums = conv_sums(x, weight, bias, x_zero, stride, padding, dilation, groups, channels_last)
    factor = weight_scale.to(torch.float64) * x_scale / y_scale
    terms = [(sums, _channels(factor, x.dim(), False))]
    if residual is not None:
        added = channels_first(residual, channels_last).to(torch.int32) - residual_zero
        terms.append((added, real(residual_scale, x) / y_scale))
    return restore(requantize(terms, y_zero, low, high, mode), channels_last)


@define(
    "quantized_conv_float(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor weight_scale, float x_scale, "
    "int x_zero, int[] stride, int[] padding, int[] dilation, int groups, str activation, bool channels_last) -> Tensor"
)
def _quantized_conv_float(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    weight_scale: Tensor,
    x_scale: float,
    x_zero: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    channels_last: bool,
) -> Tensor:
    """`quantized_conv` with a float32 result; the residual is float32 too."""
    sums = conv_sums(x, weight, bias, x_zero, stride, padding, dilation, groups, channels_last)
    y = sums.to(torch.float32) * _channels((weight_scale.to(torch.float64) * x_scale).float(), x.dim(), False)
    y = restore(y, channels_last)
    return activate(y if residual is None else y + residual, activation)


def _matmul_sums(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (F.linear(x.to(torch.float64), weight.to(torch.float64)) + bias.to(torch.float64)).to(torch.int32)


@define(
    "quantized_linear(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor weight_scale, float x_scale, "
    "int x_zero, float residual_scale, int residual_zero, float y_scale, int y_zero, int low, int high, str mode)"
    " -> Tensor"
)
def _quantized_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    weight_scale: Tensor,
    x_scale: float,
    x_zero: int,
    residual_scale: float,
    residual_zero: int,
    y_scale: float,
    y_zero: int,
    low: int,
    high: int,
    mode: str,
) -> Tensor:
    """x @ weight.T + bias (+ residual); weight is [n, k]."""
    terms = [(_matmul_sums(x, weight, bias), weight_scale.to(torch.float64) * x_scale / y_scale)]
    if residual is not None:
        terms.append((residual.to(torch.int32) - residual_zero, real(residual_scale, x) / y_scale))
    return requantize(terms, y_zero, low, high, mode)


@define(
    "quantized_linear_float(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor weight_scale, "
    "float x_scale, int x_zero, str activation) -> Tensor"
)
def _quantized_linear_float(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    weight_scale: Tensor,
    x_scale: float,
    x_zero: int,
    activation: str,
) -> Tensor:
    """`quantized_linear` with a float32 result; the residual is float32 too. The zero point is folded into `bias`."""
    y = _matmul_sums(x, weight, bias).to(torch.float32) * (weight_scale.to(torch.float64) * x_scale).float()
    return activate(y if residual is None else y + residual, activation)


def product_sums(a: Tensor, b: Tensor, a_zero: int, b_zero: int) -> Tensor:
    """(a - a_zero) @ (b - b_zero) of integers, exact, as int32."""
    return ((a.to(torch.float64) - a_zero) @ (b.to(torch.float64) - b_zero)).to(torch.int32)


@define(
    "quantized_matmul(Tensor a, Tensor b, float a_scale, int a_zero, float b_scale, int b_zero, float y_scale, "
    "int y_zero, int low, int high, str mode) -> Tensor"
)
def _quantized_matmul(
    a: Tensor,
    b: Tensor,
    a_scale: float,
    a_zero: int,
    b_scale: float,
    b_zero: int,
    y_scale: float,
    y_zero: int,
    low: int,
    high: int,
    mode: str,
) -> Tensor:
    """a @ b of two quantised values, batched as torch.matmul."""
    factor = real(a_scale, a) * b_scale / y_scale
    return requantize([(product_sums(a, b, a_zero, b_zero), factor)], y_zero, low, high, mode)


@define("quantized_matmul_float(Tensor a, Tensor b, float a_scale, int a_zero, float b_scale, int b_zero) -> Tensor")
def _quantized_matmul_float(a: Tensor, b: Tensor, a_scale: float, a_zero: int, b_scale: float, b_zero: int) -> Tensor:
    """`quantized_matmul` with a float32 result."""
    factor = (real(a_scale, a) * b_scale).to(torch.float32)
    return product_sums(a, b, a_zero, b_zero).to(torch.float32) * factor


@define(
    "quantized_add(Tensor a, Tensor b, float a_scale, int a_zero, float b_scale, int b_zero, float y_scale, "
    "int y_zero, int low, int high, str mode) -> Tensor"
)
def _quantized_add(
    a: Tensor,
    b: Tensor,
    a_scale: float,
    a_zero: int,
    b_scale: float,
    b_zero: int,
    y_scale: float,
    y_zero: int,
    low: int,
    high: int,
    mode: str,
) -> Tensor:
    """a + b of two quantised values, broadcast as PyTorch does."""
    terms = [
        (a.to(torch.int32) - a_zero, real(a_scale, a) / y_scale),
        (b.to(torch.int32) - b_zero, real(b_scale, b) / y_scale),
    ]
    return requantize(terms, y_zero, low, high, mode)


@define(
    "quantized_avg_pool(Tensor x, int[] kernel, int[] stride, int[] padding, bool ceil_mode, float x_scale, "
    "int x_zero, float y_scale, int y_zero, int low, int high, str mode, bool channels_last) -> Tensor"
)
def _quantized_avg_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    x_scale: float,
    x_zero: int,
    y_scale: float,
    y_zero: int,
    low: int,
    high: int,
    mode: str,
    channels_last: bool,
) -> Tensor:
    """Average pooling in one or two dimensions: the sum of x - x_zero, requantised with x_scale / (y_scale * count).

    Padding counts as zeros: every window is divided by the whole kernel's size.
    """
    pool: Any = F.avg_pool1d if len(kernel) == 1 else F.avg_pool2d
    count = 1
    for size in kernel:
        count *= size
    shifted = channels_first(x, channels_last).to(torch.float64) - x_zero
    # avg_pool divides windows that ceil_mode lets overhang by less than the kernel's size: pad first, so that none do
    padded = _pad_windows(shifted, kernel, stride, padding, ceil_mode)
    sums = torch.round(pool(padded, kernel, stride) * count).to(torch.int32)
    factor = real(x_scale, x) / (y_scale * count)
    return restore(requantize([(sums, factor)], y_zero, low, high, mode), channels_last)


def _pad_windows(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool
) -> Tensor:
    """Zeros around `x` (channels first) so that pooling without padding sees the windows of pooling with it."""
    pads: list[int] = []
    for size, window, step, before in zip(x.shape[2:], kernel, stride, padding, strict=True):
        room = size + 2 * before - window
        count = room // step + 1
        if ceil_mode and room % step and count * step < size + before:  # a window must start inside x or its left pad
            count += 1
        pads += [before, max(0, (count - 1) * step + window - size - before)]
    return pad(x, pads)


@define(
    "quantized_max_pool(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil_mode, "
    "bool channels_last) -> Tensor"
)
def _quantized_max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    channels_last: bool,
) -> Tensor:
    """Max pooling of integers in one or two dimensions, which keeps their scale; padding counts as -128."""
    pool: Any = F.max_pool1d if len(kernel) == 1 else F.max_pool2d
    wide = channels_first(x, channels_last).to(torch.float32)
    y = pool(wide, kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    # a dilated window may hold padding alone, which PyTorch makes -inf
    return restore(y.clamp(min=LOWEST).to(torch.int8), channels_last)


@define("quantized_embedding(Tensor weight, Tensor scale, Tensor indices) -> Tensor")
def _quantized_embedding(weight: Tensor, scale: Tensor, indices: Tensor) -> Tensor:
    """float32(weight[indices]) * scale[indices]: a table of int8 rows [rows, depth] with one float32 scale a row."""
    return F.embedding(indices, weight).to(torch.float32) * F.embedding(indices, scale.unsqueeze(1))


@define(
    "dynamic_linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor weight_scale, str activation)"
    " -> Tensor"
)
def _dynamic_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, weight_scale: Tensor, activation: str
) -> Tensor:
    """activation(x @ weight.T + bias + residual) with every row of float32 x quantised when it is there.

    A row's scale is max|row| / 127, its integers are round(row * float32(127 / max|row|)), and the result is
    float32(accumulator) * (row scale * weight_scale), where each operation rounds to float32. A row so small (or zero)
    that 127 / max|row| is infinite has the scale 1 and zeros for integers.
    """
    largest = x.to(torch.float32).abs().amax(-1, keepdim=True)
    inverse = 127.0 / largest
    empty = inverse.isinf()
    inverse = torch.where(empty, 1.0, inverse)
    integers = torch.round(x.to(torch.float32) * inverse)
    sums = F.linear(integers.to(torch.float64), weight.to(torch.float64)).to(torch.float32)
    y = sums * (torch.where(empty, 1.0, largest / 127.0) * weight_scale)
    y = y if bias is None else y + bias
    return activate(y if residual is None else y + residual, activation)


@define(
    "weight_only_linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor weight_scale, "
    "Tensor? weight_zero, int bits, int group, str activation) -> Tensor"
)
def _weight_only_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    weight_scale: Tensor,
    weight_zero: Tensor | None,
    bits: int,
    group: int,
    activation: str,
) -> Tensor:
    """activation(x @ W.T + bias + residual) in float32, where W is stored in 8 or 4 bits.

    With 8 bits `weight` is int8 [n, k]; with 4 bits it is uint8 [n, ceil(k / 2)], element 2i in the low half and 2i + 1
    in the high half of byte i, each stored as 0..15. W[n, k] = (stored - zero) * weight_scale[n, k // group], where
    zero is weight_zero[n, k // group] (uint8), or without it 0 for 8 bits and 8 for 4 bits.
    """
    w = expand_weight(weight, weight_scale, weight_zero, bits, group, x.shape[-1])
    y = F.linear(x, w.to(x.dtype), bias)
    return activate(y if residual is None else y + residual, activation)


def expand_weight(
    weight: Tensor, weight_scale: Tensor, weight_zero: Tensor | None, bits: int, group: int, depth: int
) -> Tensor:
    """The float32 weight [n, depth] that `weight_only_linear` stores in 8 or 4 bits."""
    if bits not in (4, 8):
        raise ValueError(f"weight_only_linear must have 4 or 8 bits, not {bits}")
    if bits == 4:
        halves = torch.stack((weight & 15, weight >> 4), -1)
        stored = halves.flatten(1)[:, :depth].to(torch.float32)
    else:
        stored = weight.to(torch.float32)

    def spread(values: Tensor) -> Tensor:
        return values.repeat_interleave(group, 1)[:, :depth]

    if weight_zero is not None:
        stored = stored - spread(weight_zero.to(torch.float32))
    elif bits == 4:
        stored = stored - 8
    return stored * spread(weight_scale)


@define("codebook(Tensor indices, Tensor values) -> Tensor")
def _codebook(indices: Tensor, values: Tensor) -> Tensor:
    """values[indices]: a float32 weight stored as uint8 indices into at most 256 shared values."""
    return values[indices.to(torch.int64)]
