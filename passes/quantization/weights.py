"""From float weights and biases to integers: scales, rounding, the folded bias, and the proof that sums fit 32 bits."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from .scheme import QParams

LARGEST = 127  # of a weight's integers, which are symmetric
BIAS_LIMIT = 2.0**28
"""A channel's scale is large enough for its bias to need no more than 2^28 steps, so that channels that a batch norm
switched off (tiny weights, a bias that is not) do not overflow the accumulator."""
MSE_STEPS = 40
MSE_SMALLEST = 0.6


def weight_scales(weight: Tensor, bias: Tensor, x: QParams, *, per_channel: bool = True, method: str = "max") -> Tensor:
    """The scale of each output channel (float32, [oc]; equal ones unless `per_channel`) of `weight` [oc, ...].

    `method` "max" covers the largest weight, "mse" is the scale of 0.6 to 1 times that with the least squared rounding
    error. A channel of zeros gets the scale at which its bias is 2^28 steps, 1 if that is 0 too.
    """
    rows = weight.detach().double().flatten(1)
    floor = bias.double().abs() / (x.scale * BIAS_LIMIT)
    if not per_channel:
        rows, floor = rows.reshape(1, -1), floor.max().reshape(1)
    scale = rows.abs().amax(1) / LARGEST
    if method == "mse":
        scale = _least_error(rows, scale)
    scale = torch.maximum(scale, floor)
    return _positive(scale).expand(weight.shape[0]).contiguous()


def quantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """The nearest int8 integers of `weight` [oc, ...] in steps of `scale` [oc], within +-127."""
    steps = weight.detach().double() / scale.double().reshape(-1, *[1] * (weight.dim() - 1))
    return steps.round().clamp(-LARGEST, LARGEST).to(torch.int8)


def integer_bias(bias: Tensor, integers: Tensor, scale: Tensor, x: QParams) -> Tensor:
    """round(bias / (x.scale * scale)) - x.zero * sum(integers) of each output channel, as int64."""
    steps = (bias.double() / (scale.double() * x.scale)).round()
    return steps.to(torch.int64) - x.zero * integers.flatten(1).to(torch.int64).sum(1)


def store_weight(
    weight: Tensor, bits: int, group: int, *, symmetric: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A weight [n, k] as `fxpress::weight_only_linear` stores it: integers, float32 scales and uint8 zeros by group.

    Symmetric integers are within +-127 or +-7; others use all 16 of 4 bits. A group of zeros gets scale 1.
    """
    n, k = weight.shape
    groups = ceil(k / group)
    padded = torch.nn.functional.pad(weight.detach().double(), (0, groups * group - k)).reshape(n, groups, group)
    zero = None
    if symmetric:
        largest = LARGEST if bits == 8 else 7
        scale = _positive(padded.abs().amax(2) / largest)
        steps = (padded / scale.double()[:, :, None]).round().clamp(-largest, largest)
        integers = steps if bits == 8 else steps + 8
    else:
        low, high = padded.amin(2).clamp(max=0), padded.amax(2).clamp(min=0)
        scale = _positive((high - low) / 15)
        zero = (-low / scale.double()).round().clamp(0, 15).to(torch.uint8)
        integers = ((padded / scale.double()[:, :, None]).round() + zero[:, :, None]).clamp(0, 15)
    whole = integers.reshape(n, -1)[:, :k]
    if bits == 8:
        return whole.to(torch.int8), scale, zero
    return pack_halves(whole), scale, zero


def pack_halves(integers: Tensor) -> Tensor:
    """Integers 0..15 [n, k] as uint8 [n, ceil(k / 2)], two a byte, the first in the low half."""
    n, k = integers.shape
    halves = torch.nn.functional.pad(integers, (0, k % 2)).to(torch.uint8).reshape(n, -1, 2)
    return halves[:, :, 0] | halves[:, :, 1] << 4


def overflow_of(integers: Tensor, bias: Tensor) -> int | None:
    """The largest |accumulator| possible, 128 * sum|integers| + |bias|, where it does not fit 32 bits; else None."""
    bound = int((128 * integers.flatten(1).to(torch.int64).abs().sum(1) + bias.abs()).max())
    return bound if bound >= 2**31 else None


def _positive(scale: Tensor) -> Tensor:
    """Scales as float32, 1 where nothing needs one."""
    return torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale).float()


def _least_error(rows: Tensor, largest: Tensor) -> Tensor:
    best, least = largest.clone(), torch.full_like(largest, torch.inf)
    for factor in torch.linspace(MSE_SMALLEST, 1, MSE_STEPS).tolist():
        scale = (largest * factor).clamp(min=torch.finfo(torch.float64).tiny)
        steps = (rows / scale[:, None]).round().clamp(-LARGEST, LARGEST)
        error = (steps * scale[:, None] - rows).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
