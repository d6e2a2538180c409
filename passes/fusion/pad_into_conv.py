"""conv(pad(x))  ->  conv(x) with more padding; pools likewise"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_call

aten = torch.ops.aten

NOT_NEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "softplus")


@rewrite(fxpress.conv.default)
def pad_into_conv(node: Node, rw: Rewriter) -> None:
    """conv(pad(x, zeros), padding)  ->  conv(x, padding + zeros), also where the sides differ"""
    a = arguments(node)
    pad = a["x"]
    if not is_call(pad, aten.constant_pad_nd.default):
        return
    if _value(pad) != 0:
        rw.skip(node, "the padding before it is not zero")
        return
    spatial = _spatial_pads(pad, len(a["stride"]), a["channels_last"])
    if spatial is None:
        rw.skip(node, "the padding before it crops, or pads batch or channels")
        return
    padding = [inner + outer for inner, outer in zip(a["padding"], spatial, strict=True)]
    rw.replace(node, rw.call(node.target, *(a | {"x": pad.args[0], "padding": padding}).values(), at=node))


@rewrite(fxpress.avg_pool.default)
def pad_into_avg_pool(node: Node, rw: Rewriter) -> None:
    """avg_pool(pad(x, zeros))  ->  avg_pool(x, padding=zeros, count_include_pad), for equal sides"""
    a = arguments(node)
    if not is_call(a["x"], aten.constant_pad_nd.default) or _value(a["x"]) != 0 or a["ceil_mode"]:
        return
    if any(a["padding"]) and not a["count_include_pad"]:
        return
    padding = _pool_padding(a)
    if padding is not None:
        changes = {"x": a["x"].args[0], "padding": padding, "count_include_pad": True}
        rw.replace(node, rw.call(node.target, *(a | changes).values(), at=node))


@rewrite(fxpress.max_pool.default)
def pad_into_max_pool(node: Node, rw: Rewriter) -> None:
    """max_pool(pad(x, -inf))  ->  max_pool(x, padding); pad(x, zeros) too where x cannot be negative"""
    a = arguments(node)
    pad = a["x"]
    if not is_call(pad, aten.constant_pad_nd.default) or a["ceil_mode"]:
        return
    value = _value(pad)
    if value != -float("inf") and not (value == 0 and not any(a["padding"]) and _is_not_negative(pad.args[0])):
        return
    padding = _pool_padding(a)
    if padding is not None:
        rw.replace(node, rw.call(node.target, *(a | {"x": pad.args[0], "padding": padding}).values(), at=node))


def _value(pad: Node) -> Any:
    return arguments(pad)["value"]


def _spatial_pads(pad: Node, dims: int, channels_last: bool) -> list[int] | None:
    """(before, after) for each spatial dim, first dim first; None when the pad does anything else."""
    pads: Sequence[int] = arguments(pad)["pad"]
    if not all(isinstance(p, int) and p >= 0 for p in pads):
        return None
    pairs = [tuple(pads[i : i + 2]) for i in range(0, len(pads), 2)]  # last dim first
    pairs += [(0, 0)] * (dims + 2 - len(pairs))
    channels = pairs.pop(0 if channels_last else dims)
    if any(channels) or any(pairs[dims]):
        return None
    return [p for each in reversed(pairs[:dims]) for p in each]


def _pool_padding(a: dict[str, Any]) -> list[int] | None:
    """The pool's padding with that of the pad before it; None where a pool cannot have it."""
    pads = _spatial_pads(a["x"], len(a["kernel"]), a["channels_last"])
    if pads is None or pads[0::2] != pads[1::2]:
        return None
    padding = [inner + outer for inner, outer in zip(a["padding"], pads[0::2], strict=True)]
    return padding if all(p <= k // 2 for p, k in zip(padding, a["kernel"], strict=True)) else None


def _is_not_negative(x: Any) -> bool:
    if is_call(x, aten.relu.default, aten.sigmoid.default, aten.hardsigmoid.default, aten.abs.default):
        return True
    if is_call(x, fxpress.conv.default, fxpress.conv_transpose.default, fxpress.linear.default):
        return arguments(x)["activation"] in NOT_NEGATIVE
    return False
