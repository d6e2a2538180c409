"""Definitions of the sums of quantised layers: int8 values in, 32-bit integers out, without bias or scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .library import define, restore
from .quantized import conv_sums, product_sums


@define(
    "conv_sums(Tensor x, Tensor weight, int x_zero, int[] stride, int[] padding, int[] dilation, int groups, "
    "bool channels_last) -> Tensor"
)
def _sums_of_convolution(
    x: Tensor,
    weight: Tensor,
    x_zero: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels_last: bool,
) -> Tensor:
    """The int32 sums of a convolution of int8 values, without bias; padding has the value `x_zero`."""
    none = torch.zeros(weight.shape[0], dtype=torch.int32, device=x.device)
    sums = conv_sums(x, weight, none, x_zero, stride, padding, dilation, groups, channels_last)
    return restore(sums, channels_last)


@define("linear_sums(Tensor x, Tensor weight) -> Tensor")
def _sums_of_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T of int8 values, as int32."""
    return product_sums(x, weight.transpose(0, 1), 0, 0)


@define("matmul_sums(Tensor a, Tensor b, int a_zero, int b_zero) -> Tensor")
def _sums_of_matmul(a: Tensor, b: Tensor, a_zero: int, b_zero: int) -> Tensor:
    """(a - a_zero) @ (b - b_zero) of int8 values, batched as torch.matmul, as int32."""
    return product_sums(a, b, a_zero, b_zero)
