"""Softmax and the normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.group_norm import group_norm_kernel
from ..kernels.norm import layer_norm_kernel
from ..kernels.softmax import softmax_kernel
from ..lowering import Lowering, OpRule
from ..views import View, dense_strides
from .view_ops import argument

aten = torch.ops.aten
fxpress = torch.ops.fxpress


def check(node: Node, target: CpuTarget) -> str | None:
    value = node.args[0].meta["val"]
    if value.dtype != torch.float32 or node.meta["val"].dtype != torch.float32:
        return f"its operands must be float32, not {value.dtype}"
    return None


def softmax(log: bool) -> Callable[[Node, Lowering], None]:
    def lower(node: Node, cx: Lowering) -> None:
        x, out = cx.view(node.args[0]), cx.output(node, strided=True)
        rank = len(x.shape)
        if rank == 0:
            x, dim = x.expand((1,)), 0
        else:
            dim = node.args[1] % rank
        cx.call(softmax_kernel(x.shape, dim, x.strides, out.strides or (1,), cx.target, log), x, out)

    return lower


def layer_norm(node: Node, cx: Lowering) -> None:
    _normalize(node, cx, argument(node, 2, "weight"), argument(node, 3, "bias"), argument(node, 4, "eps", 1e-5), False)


def rms_norm(node: Node, cx: Lowering) -> None:
    eps = argument(node, 3, "eps")
    _normalize(
        node, cx, argument(node, 2, "weight"), None, torch.finfo(torch.float32).eps if eps is None else eps, True
    )


def _normalize(node: Node, cx: Lowering, weight: Any, bias: Any, eps: float, rms: bool) -> None:
    trailing = len(node.args[1])
    x = cx.view(node.args[0])
    if not _dense_tail(x, trailing):
        x = cx.contiguous(x, "copy: the normalised dimensions must be dense")
    out = cx.output(node, strided=trailing == 1)
    given = [cx.contiguous(p) for p in (weight, bias) if p is not None]
    kernel = layer_norm_kernel(
        x.shape, trailing, x.strides, out.strides, eps, cx.target,
        weight=weight is not None, bias=bias is not None, rms=rms,
    )  # fmt: skip
    cx.call(kernel, x, *given, out)


def _dense_tail(view: View, trailing: int) -> bool:
    shape, strides = view.shape[-trailing:], view.strides[-trailing:]
    return all(n == 1 or s == d for n, s, d in zip(shape, strides, dense_strides(shape), strict=True))


def group_norm(node: Node, cx: Lowering) -> None:
    x, groups, weight, bias, eps, channels_last = node.args
    view, out = cx.view(x), cx.output(node, strided=True)
    y = out
    if channels_last:
        order = [0, len(view.shape) - 1, *range(1, len(view.shape) - 1)]
        view, y = view.permute(order), out.permute(order)
    given = [cx.contiguous(p) for p in (weight, bias) if p is not None]
    kernel = group_norm_kernel(
        view.shape, groups, view.strides, y.strides, eps, cx.target, weight=weight is not None, bias=bias is not None
    )
    cx.call(kernel, view, *given, out)


RULES: dict[Any, OpRule] = {
    aten.softmax.int: OpRule(softmax(log=False), check),
    aten._softmax.default: OpRule(softmax(log=False), check),
    aten.log_softmax.int: OpRule(softmax(log=True), check),
    aten._log_softmax.default: OpRule(softmax(log=True), check),
    aten.layer_norm.default: OpRule(layer_norm, check),
    aten.rms_norm.default: OpRule(rms_norm, check),
    fxpress.group_norm.default: OpRule(group_norm, check),
}
