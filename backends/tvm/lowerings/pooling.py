"""Pooling, sliding and adaptive, in either order of dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.pool import Window, pool_kernel
from ..lowering import Lowering, OpRule
from ..views import View

fxpress = torch.ops.fxpress


def check(node: Node, target: CpuTarget) -> str | None:
    value = node.args[0].meta["val"]
    return None if value.dtype == torch.float32 else f"its input must be float32, not {value.dtype}"


def max_pool(node: Node, cx: Lowering) -> None:
    _, kernel, stride, padding, dilation, _, channels_last = node.args
    windows = [Window(*sizes) for sizes in zip(kernel, stride, padding, dilation, strict=True)]
    _pool(node, cx, "max", windows, channels_last)


def avg_pool(node: Node, cx: Lowering) -> None:
    _, kernel, stride, padding, _, count_include_pad, divisor, channels_last = node.args
    windows = [Window(*sizes) for sizes in zip(kernel, stride, padding, strict=True)]
    _pool(node, cx, "avg", windows, channels_last, count_include_pad, divisor or 0)


def adaptive_avg_pool(node: Node, cx: Lowering) -> None:
    _pool(node, cx, "avg", [], node.args[2])


def adaptive_max_pool(node: Node, cx: Lowering) -> None:
    _pool(node, cx, "max", [], node.args[2])


def _pool(
    node: Node,
    cx: Lowering,
    op: str,
    windows: list[Window],
    channels_last: bool,
    count_include_pad: bool = True,
    divisor: int = 0,
) -> None:
    x, out = cx.view(node.args[0]), cx.output(node, strided=True)
    source, target = channels_first(x, channels_last), channels_first(out, channels_last)
    kernel = pool_kernel(
        op, source.shape, target.shape[2:], windows, source.strides, target.strides, cx.target,
        count_include_pad=count_include_pad, divisor=divisor,
    )  # fmt: skip
    cx.call(kernel, source, target)


def channels_first(view: View, channels_last: bool) -> View:
    """The view with its channels in dimension 1."""
    return view.permute([0, len(view.shape) - 1, *range(1, len(view.shape) - 1)]) if channels_last else view


RULES: dict[Any, OpRule] = {
    fxpress.max_pool.default: OpRule(max_pool, check),
    fxpress.avg_pool.default: OpRule(avg_pool, check),
    fxpress.adaptive_avg_pool.default: OpRule(adaptive_avg_pool, check),
    fxpress.adaptive_max_pool.default: OpRule(adaptive_max_pool, check),
}
