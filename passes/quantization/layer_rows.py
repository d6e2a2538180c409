"""What a layer multiplies with its weights, as a matrix: the products of rows [groups, r, k] and [groups, n, k]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from ...ops.library import channels_first, pad
from .integer_ops import values_of
from .walking import LayerSight, channel_dim_of

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


@dataclass(frozen=True)
class Moments:
    """Sums over `count` rows, float64: x [g, k], y [g, n] and x.T x [g, k, k]."""

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor

    @property
    def covariance(self) -> Tensor:
        """The mean of (x - mean).T (x - mean)."""
        return self.xx / self.count - self.x.unsqueeze(2) * self.x.unsqueeze(1) / self.count**2


def moments(sight: LayerSight, most: int = ROWS) -> Moments:
    """Moments of a layer's rounded inputs and of what the float32 model makes there, from at most `most` rows."""
    chance = torch.Generator().manual_seed(0)
    share = max(1, most // len(sight.rounded))
    total: list[Tensor] | None = None
    count = 0
    for x, y in zip(sight.rounded, sight.wanted, strict=True):
        rows, results = rows_of(sight.node, x), _results(sight.node, y)
        if rows.shape[1] > share:
            chosen = torch.randperm(rows.shape[1], generator=chance)[:share]
            rows, results = rows[:, chosen], results[:, chosen]
        count += rows.shape[1]
        parts = [rows.sum(1), results.sum(1), rows.mT @ rows]
        wide = [part.double() for part in parts]
        total = wide if total is None else [a + b for a, b in zip(total, wide, strict=True)]
    assert total is not None
    return Moments(count, *total)


def _results(node: Node, y: Tensor) -> Tensor:
    """A layer's result as [groups, r, n]."""
    groups = values_of(node).get("groups", 1)
    rows = y.movedim(channel_dim_of(node), -1)
    return rows.reshape(-1, groups, rows.shape[-1] // groups).movedim(1, 0)


def second_moment(x: Tensor) -> Tensor:
    """x.T x [1, k, k], float64, of rows spread evenly over x [..., k], at most ROWS_AN_ITEM of them."""
    rows = x.reshape(-1, x.shape[-1])
    rows = rows[:: -(-len(rows) // ROWS_AN_ITEM)]
    return (rows.T @ rows).double().unsqueeze(0)
