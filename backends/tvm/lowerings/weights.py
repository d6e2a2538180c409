"""Weights that are packed when the model is compiled: what a node must have for that."""

from __future__ import annotations

import torch
from torch.fx import Node

from ....target import Target


def check_weight(node: Node, target: Target) -> str | None:
    """Why the weight of `node`, its second operand, cannot be packed; None when it can."""
    weight = node.args[1]
    if not isinstance(weight, Node) or weight.op != "get_attr":
        return "its weight must be a constant"
    if weight.meta["val"].dtype != torch.float32:
        return f"its weight must be float32, not {weight.meta['val'].dtype}"
    return None
