"""a convolution whose weight is no constant  ->  a product of the weight and the patches of x"""

from __future__ import annotations

from itertools import product
from math import prod

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_constant, is_static, pair, shape
from .expand_conv3d import paddings

aten = torch.ops.aten

OPS = tuple(getattr(aten, f"conv{dims}d").default for dims in (1, 2, 3))


@rewrite(*OPS, *(op.overloadpacket.padding for op in OPS), accuracy="reassociating")
def expand_computed_conv(node: Node, rw: Rewriter) -> None:
    """conv(x, w)  ->  w @ patches(x) when `w` is computed: kernels take weights that were packed before"""
    a = arguments(node)
    x, weight = a["input"], a["weight"]
    if is_constant(weight) or not is_static(node):
        return
    oc, part, *kernel = shape(weight)
    dims, groups = len(kernel), a["groups"]
    unbatched = len(shape(x)) == dims + 1
    if unbatched:
        x = rw.call(aten.unsqueeze.default, x, 0, at=node)
    stride, dilation = pair(a["stride"], dims), pair(a["dilation"], dims)
    padding = paddings(a["padding"], tuple(kernel), dilation)
    if any(map(any, padding)):
        x = rw.call(aten.constant_pad_nd.default, x, [p for pads in padding[::-1] for p in pads], at=node)
    size = list(shape(node)[-dims:])
    taps = []
    for tap in product(*map(range, kernel)):
        window = x
        for d in range(dims):
            start = tap[d] * dilation[d]
            end = start + (size[d] - 1) * stride[d] + 1
            window = rw.call(aten.slice.Tensor, window, 2 + d, start, end, stride[d], at=node)
        taps.append(rw.call(aten.unsqueeze.default, window, 2, at=node))
    n = shape(x)[0]
    columns = rw.call(aten.cat.default, taps, 2, at=node)
    patches = rw.call(aten.reshape.default, columns, [n, groups, part * len(taps), prod(size)], at=node)
    rows = rw.call(aten.reshape.default, weight, [groups, oc // groups, part * len(taps)], at=node)
    result = rw.call(aten.matmul.default, rows, patches, at=node)
    result = rw.call(aten.reshape.default, result, [n, oc, *size], at=node)
    if a["bias"] is not None:
        column = rw.call(aten.reshape.default, a["bias"], [oc, *[1] * dims], at=node)
        result = rw.call(aten.add.Tensor, result, column, at=node)
    rw.replace(node, rw.call(aten.squeeze.dims, result, [0], at=node) if unbatched else result)
