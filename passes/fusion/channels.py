"""Scaling and shifting the output channels of convolutions and linear layers through their constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter
from ..match import arguments, is_call, is_constant, shape

aten = torch.ops.aten

CONVOLUTIONS = (fxpress.conv.default, fxpress.conv_transpose.default)
PRODUCERS = (*CONVOLUTIONS, fxpress.linear.default)


def channel_dim(producer: Node) -> int:
    """The dim of the producer's output that holds its channels."""
    rank = len(shape(producer))
    is_last = producer.target is fxpress.linear.default or arguments(producer)["channels_last"]
    return rank - 1 if is_last else 1


def channel_vector(value: Tensor, producer: Node) -> Tensor | None:
    """`value` as [channels] when, broadcast over the producer's output, it varies with the channel only; else None."""
    rank, dim = len(shape(producer)), channel_dim(producer)
    channels = shape(producer)[dim]
    if value.dim() > rank or value.numel() not in (1, channels):
        return None
    sizes = (1,) * (rank - value.dim()) + tuple(value.shape)
    if value.numel() > 1 and sizes[dim] != channels:
        return None
    return value.reshape(-1).expand(channels)


def is_plain(node: Any) -> bool:
    """Whether `node` is a convolution or linear layer of constants without an epilogue."""
    if not is_call(node, *PRODUCERS):
        return False
    a = arguments(node)
    if a["activation"] != "none" or a.get("residual") is not None:
        return False
    return is_constant(a["weight"]) and (a["bias"] is None or is_constant(a["bias"]))


def with_affine(producer: Node, rw: Rewriter, at: Node, scale: Tensor | None, shift: Tensor | None) -> Node:
    """A new producer before `at` that gives `producer * scale + shift`; both are [channels], None is 1 and 0."""
    changes = affine_constants(producer, rw, scale, shift)
    return rw.call(producer.target, *(arguments(producer) | changes).values(), at=at, origin=producer)


def affine_constants(producer: Node, rw: Rewriter, scale: Tensor | None, shift: Tensor | None) -> dict[str, Node]:
    """The weight and bias with which the producer gives `producer * scale + shift`, those that change.

    New constants are computed in float64 and rounded once.
    """
    a = arguments(producer)
    weight, bias = rw.program.constant(a["weight"]), rw.value(a["bias"])
    changes: dict[str, Node] = {}
    if scale is not None:
        scaled = scale_weight(weight.double(), scale.double(), producer)
        changes["weight"] = rw.constant(f"{a['weight'].target}_scaled", scaled.to(weight.dtype))
    if bias is not None or shift is not None:
        channels = shape(producer)[channel_dim(producer)]
        total = torch.zeros(channels, dtype=torch.float64) if bias is None else bias.double()
        total = total if scale is None else total * scale.double()
        total = total if shift is None else total + shift.double()
        name = f"{a['weight'].target}_bias" if bias is None else f"{a['bias'].target}_shifted"
        changes["bias"] = rw.constant(name, total.to(weight.dtype))
    return changes


def scale_weight(weight: Tensor, scale: Tensor, producer: Node) -> Tensor:
    """`weight` with the part that makes each output channel multiplied by that channel's scale."""
    if producer.target is not fxpress.conv_transpose.default:
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    groups = arguments(producer)["groups"]
    per_group = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (per_group * scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)
