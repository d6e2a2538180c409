"""Constants of requantisation in mode I, computed by the very functions that define the ops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ....ops.requantization import MOST_SHIFT, multiplier_of, shift_of
from .layers import Integers, Requantization

SUM_LIMIT = 2**31
MULTIPLIER_LIMIT = 2**24


def requantization(
    bias: Tensor | int,
    factors: Sequence[Tensor],
    zero: int,
    low: int,
    high: int,
    residual_zero: int = 0,
) -> Requantization | str:
    """The constants for (x + bias) * factors[0] (+ (residual - residual_zero) * factors[1]), or why there are none.

    Factors are float64 scalars or have one element an output channel.
    """
    main, *rest = factors
    largest = main
    for factor in rest:
        largest = torch.maximum(largest, factor)
    shift = shift_of(largest)
    multiplier = multiplier_of(main, shift)
    residual = multiplier_of(rest[0], shift) if rest else torch.zeros_like(multiplier)
    if max(int(multiplier.max()), int(residual.max())) >= MULTIPLIER_LIMIT:
        return f"its scales differ by a factor of {float(largest.max()):.3g}, more than 24-bit multipliers express"
    assert int(shift.max()) <= MOST_SHIFT
    values = torch.as_tensor(bias).to(torch.int64)
    arrays = [_array(x) for x in (values, multiplier, residual, shift)]
    return Requantization(arrays[0], arrays[1], arrays[2], arrays[3], zero, low, high, residual_zero)


def sums_fit(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether no sum of bytes times these weights (and bias), in any order, can leave int32."""
    added = torch.zeros(1) if bias is None else bias.to(torch.int64).abs()
    terms = weight[0].numel()
    if 128 * 128 * terms + int(added.max()) < SUM_LIMIT:
        return True  # without a look at many weights
    return int((128 * weight.to(torch.int64).flatten(1).abs().sum(1) + added).max()) < SUM_LIMIT


def _array(x: Tensor) -> Integers:
    return np.atleast_1d(x.numpy()).astype(np.int64)
