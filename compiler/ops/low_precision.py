"""Definitions of the ops with 16-bit floats as operands: exact products, sums in float32.

Weights are bfloat16 or float16. `x` is float32, or a 16-bit float itself: an `aten._to_copy` in front of the op says
where values are rounded. The bias is float32, the residual float32 or the dtype of the result, which `dtype` names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .activation import activate
from .library import channels_first, define, pad, restore


def _sums(dtype: torch.dtype, *operands: Tensor | None) -> torch.dtype:
    """The dtype sums are made in: float32, or float64 where an operand or the result is that."""
    dtypes = [dtype, *(operand.dtype for operand in operands if operand is not None)]
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _finish(y: Tensor, residual: Tensor | None, activation: str, dtype: torch.dtype) -> Tensor:
    return activate(y if residual is None else y + residual.to(y.dtype), activation).to(dtype)


@define(
    "narrow_linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str activation, ScalarType dtype) -> Tensor"
)
def _narrow_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    """activation(x @ weight.T + bias + residual), rounded once to `dtype`; weight is [n, k] of a 16-bit float."""
    wide = _sums(dtype, x, bias, residual)
    y = F.linear(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    return _finish(y, residual, activation, dtype)


@define(
    "narrow_conv(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, int[] dilation, "
    "int groups, str activation, ScalarType dtype, bool channels_last) -> Tensor"
)
def _narrow_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    """activation(convolution(x, weight) + bias + residual), rounded once to `dtype`; arguments are those of `conv`."""
    wide = _sums(dtype, x, bias, residual)
    convolution = F.conv1d if weight.dim() == 3 else F.conv2d
    y = convolution(
        pad(channels_first(x, channels_last).to(wide), padding),
        weight.to(wide),
        None if bias is None else bias.to(wide),
        stride=stride,
        dilation=dilation,
        groups=groups,
    )
    return _finish(restore(y, channels_last), residual, activation, dtype)
