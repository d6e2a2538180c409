"""aten.group_norm  ->  fxpress.group_norm"""

from __future__ import annotations

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments

aten = torch.ops.aten


@rewrite(aten.group_norm.default)
def normalize_group_norm(node: Node, rw: Rewriter) -> None:
    """aten.group_norm(x, groups, w, b, eps)  ->  fxpress.group_norm(x, groups, w, b, eps)"""
    a = arguments(node)
    new = rw.call(
        fxpress.group_norm.default, a["input"], a["num_groups"], a["weight"], a["bias"], a["eps"], False, at=node
    )
    rw.replace(node, new)
