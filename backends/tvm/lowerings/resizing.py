"""Interpolation of the spatial dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ..kernels.resize import resize_kernel
from ..lowering import Lowering, OpRule
from .pooling import channels_first, check

fxpress = torch.ops.fxpress
MODES = {
    "nearest": "nearest",
    "nearest-exact": "nearest-exact",
    "linear": "linear",
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic",
}


def resize(node: Node, cx: Lowering) -> None:
    x, _, scales, mode, align_corners, channels_last = node.args
    out = cx.output(node, strided=True)
    source, target = channels_first(cx.view(x), channels_last), channels_first(out, channels_last)
    kernel = resize_kernel(
        MODES[mode], source.shape, target.shape[2:], source.strides, target.strides, cx.target,
        align_corners=align_corners, scale_factors=scales,
    )  # fmt: skip
    cx.call(kernel, source, target)


RULES: dict[Any, OpRule] = {fxpress.resize.default: OpRule(resize, check)}
