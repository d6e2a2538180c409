"""The two orders of a value's dimensions, channels first (as PyTorch traces) and channels last, and how they map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten


def to_channels_last(rank: int) -> list[int]:
    """The permutation that moves dim 1 to the end: [0, 2, 3, 1] for rank 4."""
    return [0, *range(2, rank), 1]


def to_channels_first(rank: int) -> list[int]:
    """The inverse of `to_channels_last`: [0, 3, 1, 2] for rank 4."""
    return [0, rank - 1, *range(1, rank - 1)]


def permutation(node: Node) -> list[int] | None:
    """The non-negative dims of an `aten.permute`, None for any other node."""
    if node.target is not aten.permute.default:
        return None
    dims: Sequence[int] = node.args[1]
    return [d % len(dims) for d in dims]


def last_dim(dim: int, rank: int) -> int:
    """Where dim `dim` of a channels-first value is in its channels-last form."""
    return to_channels_last(rank).index(dim % rank)


def reorder(values: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """The values in the given order of their indices."""
    return [values[i] for i in order]


def keeps_memory(shape: Sequence[Any], order: Sequence[int]) -> bool:
    """Whether permuting a dense value of this shape leaves its elements where they are."""
    moved = [d for d in order if shape[d] != 1]
    return moved == sorted(moved)


def shape_of(node: Node) -> Sequence[Any]:
    """The shape of a node's value, of its first value when it has several; empty without any."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) and value else value
    return getattr(value, "shape", ())
