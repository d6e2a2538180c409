"""What a layer multiplies with its weights, as a matrix: the products of rows [groups, r, k] and [groups, n, k]."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.fx import Node

from ...ops.library import channels_first, pad
from .integer_ops import values_of
from .walking import LayerSight

ROWS = 16384
"""The most rows that statistics are made of."""
ROWS_AN_ITEM = 512


def rows_of(node: Node, x: Tensor) -> Tensor:
    """[groups, r, k]: for each element of a channel of the layer's result, the inputs that it is made of, float32."""
    values = values_of(node)
    if "stride" not in values:
        return x.reshape(1, -1, x.shape[-1])
    x = pad(channels_first(x, values["channels_last"]), values["padding"])
    kernel = values["weight"].meta["val"].shape[2:]
    return unfolded(x, kernel, values["stride"], values["dilation"], values["groups"])


def unfolded(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:  # fmt: skip
    """[groups, r, k]: what a convolution of `x` [batch, channels, *sizes], padded, multiplies with its weights."""
    windows = patches(x, kernel, stride, dilation)
    batch, channels, *places = windows.shape
    dims = len(kernel)
    order = (1, 0, *range(3, 3 + dims), 2, *range(3 + dims, 3 + 2 * dims))
    windows = windows.reshape(batch, groups, channels // groups, *places).permute(order)
    return windows.reshape(groups, batch * prod(places[:dims]), -1)


def patches(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """A view [batch, channels, *places, *kernel] of `x` [batch, channels, *sizes]: what a convolution sees where."""
    for dim, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + dim, gap * (size - 1) + 1, step)[..., ::gap]
    return x


def matrix_of(node: Node, weight: Tensor) -> Tensor:
    """The layer's weight as [groups, n, k], so that rows_of(x) @ matrix.mT are its sums without bias."""
    groups = values_of(node).get("groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def input_moment(sight: LayerSight, *, centred: bool) -> Tensor:
    """The mean of x.T x [groups, k, k] over some rows of a layer's rounded inputs, less their mean if `centred`."""
    chance = torch.Generator().manual_seed(0)
    share = max(1, ROWS // len(sight.rounded))
    chosen = []
    for x in sight.rounded:
        rows = rows_of(sight.node, x)
        chosen.append(rows[:, torch.randperm(rows.shape[1], generator=chance)[:share]])
    whole = torch.cat(chosen, 1)
    if centred:
        whole = whole - whole.mean(1, keepdim=True)
    return (whole.mT @ whole).double() / whole.shape[1]


def second_moment(x: Tensor) -> Tensor:
    """x.T x [1, k, k], float64, of rows spread evenly over x [..., k], at most ROWS_AN_ITEM of them."""
    rows = x.reshape(-1, x.shape[-1])
    rows = rows[:: -(-len(rows) // ROWS_AN_ITEM)]
    return (rows.T @ rows).double().unsqueeze(0)
