"""What a layer multiplies with its weights, as a matrix: the products of rows [groups, r, k] and [groups, n, k]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    kernel, stride, dilation = values["weight"].meta["val"].shape[2:], values["stride"], values["dilation"]
    if len(kernel) == 1:
        x, kernel, stride, dilation = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    columns = F.unfold(x, tuple(kernel), stride=tuple(stride), dilation=tuple(dilation))
    batch, _, count = columns.shape
    groups = values["groups"]
    return columns.reshape(batch, groups, -1, count).permute(1, 0, 3, 2).reshape(groups, batch * count, -1)


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
