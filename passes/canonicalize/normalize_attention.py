"""scaled_dot_product_attention of any number of dims and batches that broadcast  ->  of [batch, heads, rows, depth]"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, call_again, is_static, shape

aten = torch.ops.aten


@rewrite(aten.scaled_dot_product_attention.default, fxpress.attention.default, accuracy="reassociating")
def normalize_attention(node: Node, rw: Rewriter) -> None:
    """attention([a, b, heads, t, d])  ->  reshape(attention([a b, heads, t, d])); a smaller batch is expanded

    Left alone: three or four dims with one batch size, what varies in size, and grouped heads.
    """
    a = arguments(node)
    operands = [a["query"], a["key"], a["value"]]
    if a["enable_gqa"] or not all(is_static(x) for x in (*operands, node)):
        return
    shapes = [shape(x) for x in operands]
    batches = {sizes[:-2] for sizes in shapes}
    if len(batches) == 1 and len(shapes[0]) in (3, 4):
        return
    batch = list(shape(node)[:-2])
    flat = [prod(batch[:-1]), batch[-1]] if batch else [1, 1]
    new = [_flattened(x, batch, flat, node, rw) for x in operands]
    mask = a["attn_mask"]
    if mask is not None and any(size != 1 for size in shape(mask)[:-2]):
        mask = _flattened(mask, batch, flat, node, rw)
    elif mask is not None and len(shape(mask)) > 2:
        mask = rw.call(aten.reshape.default, mask, list(shape(mask)[-2:]), at=node)
    query, key, value = new
    result = call_again(node, rw, query=query, key=key, value=value, attn_mask=mask)
    rw.replace(node, rw.call(aten.reshape.default, result, list(shape(node)), at=node))


def _flattened(x: Node, batch: Sequence[int], flat: Sequence[int], at: Node, rw: Rewriter) -> Node:
    """`x` with the batch dims broadcast to `batch` and reshaped to `flat`."""
    rows = list(shape(x)[-2:])
    if list(shape(x)[:-2]) != list(batch):
        x = rw.call(aten.expand.default, x, [*batch, *rows], at=at)
    return rw.call(aten.reshape.default, x, [*flat, *rows], at=at)
