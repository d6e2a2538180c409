"""Convolutions: the layout they need, which kernel computes them, and their weights packed for it."""

from __future__ import annotations

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
from .weights import check_weight

fxpress = torch.ops.fxpress


def conv(node: Node, cx: Lowering) -> None:
    x, weight, bias, residual, stride, padding, dilation, groups, activation, channels_last = node.args
    kernel_weight = cx.constant_tensor(weight)
    assert kernel_weight is not None
    source = _channels_last_input(cx, x, padding, channels_last)
    target = _channels_last_output(cx, node, channels_last)
    added = None if residual is None else _dense_channels(cx, residual, channels_last)
    n, height, width, oc = _image(target).shape
    shape = ConvShape(
        batch=n,
        height=height,
        width=width,
        ic=source.shape[-1],
        oc=oc,
        kernel=_pair(kernel_weight.shape[2:]),
        x_strides=_pixel_strides(source),
        y_strides=_pixel_strides(target),
        residual_strides=None if added is None else _pixel_strides(added),
        stride=_pair(stride),
        dilation=_pair(dilation),
        padding=(0, padding[0]) if len(padding) == 2 else (padding[0], padding[2]),
        groups=groups,
        activation=activation,
    )
    kernel, packed = _kernel(cx, shape, _four_dims(kernel_weight))
    cx.call(kernel, source, packed, _bias(cx, bias, oc), *([] if added is None else [added]), target)
    _finish(cx, node, target, channels_last)


def conv_transpose(node: Node, cx: Lowering) -> None:
    x, weight, bias, stride, padding, _, dilation, groups, activation, channels_last = node.args
    kernel_weight = cx.constant_tensor(weight)
    assert kernel_weight is not None
    target = _channels_last_output(cx, node, channels_last)
    value = x.meta["val"].shape
    spatial = value[1:-1] if channels_last else value[2:]
    n, height, width, oc = _image(target).shape
    shape = ConvShape(
        batch=n,
        height=height,
        width=width,
        ic=value[-1] if channels_last else value[1],
        oc=oc,
        kernel=_pair(kernel_weight.shape[2:]),
        x_strides=(0, 0, 0),
        y_strides=_pixel_strides(target),
        stride=_pair(stride),
        dilation=_pair(dilation),
        padding=(0, padding[0]) if len(padding) == 1 else tuple(padding),
        groups=groups,
        activation=activation,
    )
    pads = []
    for (first, last), size in zip(ConvTranspose.reads(shape), (1, *spatial)[-2:], strict=True):
        pads += [max(0, -first), max(0, last - size + 1)]
    source = _channels_last_input(cx, x, pads[-2 * len(spatial) :], channels_last)
    kernel = ConvTranspose.choose(replace(shape, x_strides=_pixel_strides(source)), cx.target)
    packed = cx.constant(kernel.pack(_four_dims(kernel_weight)))
    cx.call(kernel, source, packed, _bias(cx, bias, oc), target)
    _finish(cx, node, target, channels_last)


def _kernel(cx: Lowering, shape: ConvShape, weight: torch.Tensor) -> tuple[Kernel, View]:
    """The kernel that suits the shape, and its weight operand."""
    if shape.groups == shape.ic == shape.oc:
        depthwise = DepthwiseConv.choose(shape, cx.target)
        return depthwise, cx.constant(depthwise.pack(weight))
    if profitable(shape, cx.target):
        winograd = WinogradConv.choose(shape, cx.target)
        transform = winograd.weights()
        transformed = cx.derived((transform.elements,))
        cx.prepare(transform, cx.constant(winograd.pack(weight)), transformed)
        return winograd, transformed
    direct = DirectConv.choose(shape, cx.target)
    return direct, cx.constant(direct.pack(weight))


def _bias(cx: Lowering, bias: Node | None, oc: int) -> View:
    return cx.constant(torch.zeros(oc)) if bias is None else cx.contiguous(bias)


def _channels_last_input(cx: Lowering, x: Node, padding: Any, channels_last: bool) -> View:
    if channels_last:
        return cx.with_halo(x, padding)
    view = cx.view(x)
    rank = len(view.shape)
    return cx.halo_copy(view.permute([0, *range(2, rank), 1]), padding)


def _channels_last_output(cx: Lowering, node: Node, channels_last: bool) -> View:
    if channels_last:
        return cx.output(node, strided=True)
    n, c, *spatial = node.meta["val"].shape
    return cx.temporary((n, *spatial, c))


def _finish(cx: Lowering, node: Node, computed: View, channels_last: bool) -> None:
    if not channels_last:
        rank = len(computed.shape)
        cx.alias(node, computed.permute([0, rank - 1, *range(1, rank - 1)]))


def _dense_channels(cx: Lowering, node: Node, channels_last: bool) -> View:
    view = cx.view(node)
    if not channels_last:
        view = view.permute([0, *range(2, len(view.shape)), 1])
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else cx.contiguous(view)


def _image(view: View) -> View:
    """A 1-D value as an image of height 1."""
    if len(view.shape) == 4:
        return view
    n, w, c = view.strides
    return View(view.storage, view.offset, (view.shape[0], 1, *view.shape[1:]), (n, 0, w, c), view.halo)


def _pixel_strides(view: View) -> tuple[int, int, int]:
    n, height, width, _ = _image(view).strides
    return n, height, width


def _pair(values: Any) -> tuple[int, int]:
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _four_dims(weight: torch.Tensor) -> torch.Tensor:
    return weight.unsqueeze(2) if weight.dim() == 3 else weight


RULES: dict[Any, OpRule] = {
    fxpress.conv.default: OpRule(conv, check_weight),
    fxpress.conv_transpose.default: OpRule(conv_transpose, check_weight),
}
