"""aten pooling ops  ->  fxpress pooling ops"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, pair, shape, takes_first_only

aten = torch.ops.aten

MAX = {
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool2d_with_indices.default: 2,
    aten.max_pool3d.default: 3,
    aten.max_pool3d_with_indices.default: 3,
}
AVERAGE = {aten.avg_pool1d.default: 1, aten.avg_pool2d.default: 2, aten.avg_pool3d.default: 3}
ADAPTIVE_AVERAGE = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
}
ADAPTIVE_MAX = {
    aten.adaptive_max_pool1d.default: 1,
    aten.adaptive_max_pool2d.default: 2,
    aten.adaptive_max_pool3d.default: 3,
}
DIMS = MAX | AVERAGE | ADAPTIVE_AVERAGE | ADAPTIVE_MAX


@rewrite(*DIMS)
def normalize_pool(node: Node, rw: Rewriter) -> None:
    """aten.max_pool2d(x, ...)  ->  fxpress.max_pool(x, ...), and so for average and adaptive pooling

    Max pooling that also gives indices is taken when nobody uses them. An unbatched input gets a batch dim of one.
    """
    several = not isinstance(node.meta["val"], torch.Tensor)
    if several and not takes_first_only(node):
        rw.skip(node, "its indices are used")
        return
    a, dims = arguments(node), DIMS[node.target]
    x = a["self"]
    unbatched = len(shape(x)) == dims + 1
    if unbatched:
        x = rw.call(aten.unsqueeze.default, x, 0, at=node)
    new = _pool(node, rw, x, a, dims)
    if unbatched:
        new = rw.call(aten.squeeze.dims, new, [0], at=node)
    for old in list(node.users) if several else [node]:
        rw.replace(old, new)


def _pool(node: Node, rw: Rewriter, x: Node, a: dict[str, Any], dims: int) -> Node:
    if node.target in ADAPTIVE_AVERAGE:
        return rw.call(fxpress.adaptive_avg_pool.default, x, pair(a["output_size"], dims), False, at=node)
    if node.target in ADAPTIVE_MAX:
        return rw.call(fxpress.adaptive_max_pool.default, x, pair(a["output_size"], dims), False, at=node)
    kernel = pair(a["kernel_size"], dims)
    stride = pair(a["stride"], dims) if a["stride"] else kernel
    padding = pair(a["padding"], dims)
    if node.target in AVERAGE:
        return rw.call(
            fxpress.avg_pool.default, x, kernel, stride, padding, a["ceil_mode"], a["count_include_pad"],
            a.get("divisor_override"), False, at=node,
        )  # fmt: skip
    dilation = pair(a["dilation"], dims)
    return rw.call(fxpress.max_pool.default, x, kernel, stride, padding, dilation, a["ceil_mode"], False, at=node)
