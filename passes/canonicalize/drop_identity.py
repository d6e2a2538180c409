"""x * 1, x + 0, x / 1, ...  ->  x"""

from __future__ import annotations

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite

aten = torch.ops.aten

NEUTRAL = {
    aten.mul.Tensor: 1,
    aten.div.Tensor: 1,
    aten.add.Tensor: 0,
    aten.sub.Tensor: 0,
    aten.pow.Tensor_Scalar: 1,
}


@rewrite(*NEUTRAL)
def drop_identity(node: Node, rw: Rewriter) -> None:
    """x * 1, x / 1, x + 0, x - 0, x ** 1  ->  x"""
    x, operand = node.args[:2]
    if operand != NEUTRAL[node.target] or isinstance(operand, bool) or not isinstance(x, Node):
        return
    if x.meta["val"].dtype != node.meta["val"].dtype or x.meta["val"].shape != node.meta["val"].shape:
        return
    rw.replace(node, x)
