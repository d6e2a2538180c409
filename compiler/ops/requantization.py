"""Requantisation: from a 32-bit accumulator to 8-bit integers, in floats (mode F) or in fixed point (mode I).

Both are defined bit for bit. A real factor (an input scale times a weight scale over the output scale) becomes one
float32 in mode F, and a 24-bit multiplier with a right shift in mode I.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InvalidInput

MODES = ("F", "I")
LOWEST, HIGHEST = -128, 127  # of the 8-bit integers that values are held in
MULTIPLIER_BITS = 24
MOST_SHIFT = 55


def check_mode(mode: str) -> None:
    """Raise InvalidInput when `mode` is none of MODES."""
    if mode not in MODES:
        raise InvalidInput(f"requantise mode must be 'F' (float32) or 'I' (fixed point), not {mode!r}")


def shift_of(factor: Tensor) -> Tensor:
    """The right shift s with which `factor` (float64, positive) is a multiplier m in [2^23, 2^24): factor ~ m * 2^-s.

    Clipped to 1..55: a factor below 2^-32 then has a smaller multiplier, one of 2^23 or more a larger one.
    """
    _, exponent = torch.frexp(factor)
    shift = MULTIPLIER_BITS - exponent.to(torch.int64)
    overflow = multiplier_of(factor, shift) >= 2**MULTIPLIER_BITS
    shift -= overflow.to(torch.int64)
    return torch.clamp(shift, 1, MOST_SHIFT)


def multiplier_of(factor: Tensor, shift: Tensor) -> Tensor:
    """The integer multiplier of `factor` (float64) for shifts of at least its shape, rounded half to even; int64."""
    return torch.ldexp(factor.expand_as(shift), shift).round().to(torch.int64)


def requantize(terms: Sequence[tuple[Tensor, Tensor]], zero: int, low: int, high: int, mode: str) -> Tensor:
    """clip(round(sum of value * factor over `terms`) + zero, low, high) as int8, rounded as `mode` defines.

    Each term is an integer tensor and its real factor (float64, broadcast against it). Mode F rounds every product and
    every sum to float32, then half to even. Mode I multiplies exactly, with one shift for all terms (that of the
    largest factor), and rounds half up.
    """
    check_mode(mode)
    if mode == "F":
        total = None
        for value, factor in terms:
            product = value.to(torch.float32) * factor.to(torch.float32)
            total = product if total is None else total + product
        assert total is not None
        rounded = torch.round(total).clamp(low - zero, high - zero) + zero
        return rounded.to(torch.int8)
    largest = terms[0][1]
    for _, factor in terms[1:]:
        largest = torch.maximum(largest, factor)
    shift = shift_of(largest)
    sum_ = torch.bitwise_left_shift(torch.ones_like(shift), shift - 1)
    for value, factor in terms:
        sum_ = sum_ + value.to(torch.int64) * multiplier_of(factor, shift)
    return (torch.bitwise_right_shift(sum_, shift) + zero).clamp(low, high).to(torch.int8)
