"""Convolutions: the layout they need, which kernel computes them, and their weights packed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from ..kernels.base import Kernel
from ..kernels.conv import DirectConv
from ..kernels.conv_shape import ConvShape
from ..kernels.conv_transpose import ConvTranspose
from ..kernels.depthwise import DepthwiseConv
from ..kernels.winograd import WinogradConv, profitable
from ..lowering import Lowering, OpRule
from ..views import View
from .images import (
    channels_last_input,
    channels_last_output,
    dense_channels,
    four_dims,
    image,
    pair,
    pixel_strides,
    restore_order,
)
from .sparse_layers import masked_kernel, pixels_as_rows, sparse_kernel
from .weights import check_weight, packed_weight, weight_tensor

fxpress = torch.ops.fxpress


def conv(node: Node, cx: Lowering) -> None:
    x, weight, bias, residual, stride, padding, dilation, groups, activation, channels_last = node.args
    kernel_weight = weight_tensor(cx, weight)
    source = channels_last_input(cx, x, padding, channels_last)
    target = channels_last_output(cx, node, channels_last)
    added = None if residual is None else dense_channels(cx, cx.view(residual), channels_last)
    shape = conv_shape(source, target, added, kernel_weight, stride, padding, dilation, groups, activation)
    kernel, packed = _kernel(cx, shape, weight, kernel_weight)
    memory = [] if added is None else [added]
    if isinstance(kernel, WinogradConv):
        memory.append(cx.temporary((kernel.scratch_elements,)))
    cx.call(kernel, source, *packed, _bias(cx, bias, shape.oc), *memory, target)
    restore_order(cx, node, target, channels_last)


def conv_shape(
    source: View,
    target: View,
    added: View | None,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str = "none",
) -> ConvShape:
    """The convolution from `source` to `target` (with the residual `added`), all with channels last."""
    n, height, width, oc = image(target).shape
    return ConvShape(
        batch=n,
        height=height,
        width=width,
        ic=source.shape[-1],
        oc=oc,
        kernel=pair(weight.shape[2:]),
        x_strides=pixel_strides(source),
        y_strides=pixel_strides(target),
        residual_strides=None if added is None else pixel_strides(added),
        stride=pair(stride),
        dilation=pair(dilation),
        padding=(0, padding[0]) if len(padding) == 2 else (padding[0], padding[2]),
        groups=groups,
        activation=activation,
    )


def conv_transpose(node: Node, cx: Lowering) -> None:
    x, weight, bias, stride, padding, _, dilation, groups, activation, channels_last = node.args
    kernel_weight = weight_tensor(cx, weight)
    target = channels_last_output(cx, node, channels_last)
    value = x.meta["val"].shape
    spatial = value[1:-1] if channels_last else value[2:]
    n, height, width, oc = image(target).shape
    shape = ConvShape(
        batch=n,
        height=height,
        width=width,
        ic=value[-1] if channels_last else value[1],
        oc=oc,
        kernel=pair(kernel_weight.shape[2:]),
        x_strides=(0, 0, 0),
        y_strides=pixel_strides(target),
        stride=pair(stride),
        dilation=pair(dilation),
        padding=(0, padding[0]) if len(padding) == 1 else tuple(padding),
        groups=groups,
        activation=activation,
    )
    pads = []
    for (first, last), size in zip(ConvTranspose.reads(shape), (1, *spatial)[-2:], strict=True):
        pads += [max(0, -first), max(0, last - size + 1)]
    source = channels_last_input(cx, x, pads[-2 * len(spatial) :], channels_last)
    kernel = ConvTranspose.choose(replace(shape, x_strides=pixel_strides(source)), cx.target)
    packed = packed_weight(cx, weight, lambda tensor: kernel.pack(four_dims(tensor)))
    cx.call(kernel, source, packed, _bias(cx, bias, oc), target)
    restore_order(cx, node, target, channels_last)


def _kernel(cx: Lowering, shape: ConvShape, weight: Node, tensor: torch.Tensor) -> tuple[Kernel, tuple[View, ...]]:
    """The kernel that suits the shape, and its weight operands."""

    def pack(kernel: DepthwiseConv | DirectConv | WinogradConv) -> View:
        return packed_weight(cx, weight, lambda tensor: kernel.pack(four_dims(tensor)))

    if weight.target is fxpress.unpack_blocks.default and shape.groups == 1:
        return sparse_kernel(cx, shape, four_dims(tensor))
    if weight.target is fxpress.unpack_masked.default:
        rows = pixels_as_rows(shape)
        masked = None if rows is None else masked_kernel(cx, rows, tensor.flatten(1))
        if masked is not None:
            return masked
    if shape.groups == shape.ic == shape.oc:
        depthwise = DepthwiseConv.choose(shape, cx.target)
        return depthwise, (pack(depthwise),)
    if profitable(shape, cx.target):
        winograd = WinogradConv.choose(shape, cx.target)
        packed, transform = pack(winograd), winograd.transform()
        if transform is not None:
            plain, packed = packed, cx.derived((transform.elements,))
            cx.prepare(transform, plain, packed)
        return winograd, (packed,)
    direct = DirectConv.choose(shape, cx.target)
    return direct, (pack(direct),)


def _bias(cx: Lowering, bias: Node | None, oc: int) -> View:
    return cx.constant(torch.zeros(oc)) if bias is None else cx.contiguous(bias)


RULES: dict[Any, OpRule] = {
    fxpress.conv.default: OpRule(conv, check_weight),
    fxpress.conv_transpose.default: OpRule(conv_transpose, check_weight),
}
