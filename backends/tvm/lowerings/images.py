"""Values with channels and spatial dimensions, as convolution kernels see them: channels-last images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.fx import Node

from ..graph_lowering import GraphLowering
from ..lowering import Lowering
from ..views import View


def channels_last_input(
    cx: Lowering, x: Node, padding: Sequence[int], channels_last: bool, fill: int = 0, biased: bool = False
) -> View:
    """The value of `x` with channels last and a border of `fill`; `biased` asks for int8 held as uint8."""
    if channels_last:
        return cx.with_halo(x, padding, fill, biased)
    view = cx.biased(x) if biased else cx.view(x)
    return cx.halo_copy(_channels_to_end(view), padding, fill)


def channels_last_output(cx: GraphLowering, node: Node, channels_last: bool, biased: bool = False) -> View:
    """Where a kernel writes the value of `node` with channels last; `restore_order` follows the kernel."""
    if channels_last:
        return cx.output(node, strided=True, biased=biased)
    value = node.meta["val"]
    n, c, *spatial = value.shape
    dtype = "uint8" if biased else str(value.dtype).removeprefix("torch.")
    return replace(cx.temporary((n, *spatial, c), dtype), biased=biased)


def restore_order(cx: GraphLowering, node: Node, computed: View, channels_last: bool) -> None:
    """Register what was written into `channels_last_output` as the value of `node`."""
    if not channels_last:
        rank = len(computed.shape)
        cx.alias(node, computed.permute([0, rank - 1, *range(1, rank - 1)]))


def dense_channels(cx: GraphLowering, view: View, channels_last: bool) -> View:
    """A value with channels last that lie next to each other."""
    view = view if channels_last else _channels_to_end(view)
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else cx.contiguous(view)


def _channels_to_end(view: View) -> View:
    return view.permute([0, *range(2, len(view.shape)), 1])


def image(view: View) -> View:
    """A 1-D value as an image of height 1."""
    if len(view.shape) == 4:
        return view
    n, w, c = view.strides
    return replace(view, shape=(view.shape[0], 1, *view.shape[1:]), strides=(n, 0, w, c))


def pixel_strides(view: View) -> tuple[int, int, int]:
    """Elements between images, rows and pixels."""
    n, height, width, _ = image(view).strides
    return n, height, width


def pair(values: Sequence[int]) -> tuple[int, int]:
    """What applies to height and width, from one number for each spatial dim."""
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def four_dims(weight: torch.Tensor) -> torch.Tensor:
    """The weight of a convolution with a height."""
    return weight.unsqueeze(2) if weight.dim() == 3 else weight
