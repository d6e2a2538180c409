"""attention(q, k, v, mask, scale)  ->  softmax(q @ k.T * scale + mask) @ v"""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..fusion.recognize_attention import constant_view
from ..match import arguments, dtype, is_static, shape

aten = torch.ops.aten


@rewrite(aten.scaled_dot_product_attention.default, fxpress.attention.default, accuracy="reassociating")
def expand_attention(node: Node, rw: Rewriter) -> None:
    """attention(q, k, v, mask, scale)  ->  softmax(q @ k.T * scale + mask) @ v

    For targets that multiply matrices but have no attention. Where a mask may hide all keys from a row, that row's
    weights become zeros, as in scaled_dot_product_attention. Left alone: what varies in size.
    """
    a = arguments(node)
    query, key, value = a["query"], a["key"], a["value"]
    if not all(is_static(x) for x in (query, key, value, node)):
        rw.skip(node, "attention must have sizes that are known to be expanded")
        return
    if a["enable_gqa"] and shape(query)[-3] != shape(key)[-3]:
        key, value = (_repeated(x, shape(query)[-3], node, rw) for x in (key, value))
    rank = len(shape(key))
    transposed = rw.call(aten.permute.default, key, [*range(rank - 2), rank - 1, rank - 2], at=node)
    scores = rw.call(aten.matmul.default, query, transposed, at=node)
    scale = a["scale"] if a["scale"] is not None else shape(query)[-1] ** -0.5
    if scale != 1:
        scores = rw.call(aten.mul.Tensor, scores, float(scale), at=node)
    scores, may_hide_all = _masked(scores, a, node, rw)
    weights = rw.call(aten.softmax.int, scores, -1, at=node)
    if may_hide_all:
        largest = rw.call(aten.amax.default, scores, [-1], True, at=node)
        hidden = rw.call(aten.eq.Scalar, largest, -inf, at=node)
        weights = rw.call(aten.masked_fill.Scalar, weights, hidden, 0.0, at=node)
    rw.replace(node, rw.call(aten.matmul.default, weights, value, at=node))


def _repeated(x: Node, heads: int, at: Node, rw: Rewriter) -> Node:
    """`x` [..., fewer heads, rows, depth] with each head so often that there are `heads`."""
    *batch, given, rows, depth = shape(x)
    x = rw.call(aten.reshape.default, x, [*batch, given, 1, rows, depth], at=at)
    x = rw.call(aten.expand.default, x, [*batch, given, heads // given, rows, depth], at=at)
    return rw.call(aten.reshape.default, x, [*batch, heads, rows, depth], at=at)


def _masked(scores: Node, a: dict[str, Any], at: Node, rw: Rewriter) -> tuple[Node, bool]:
    """The scores with the mask applied, and whether scaled_dot_product_attention has to care for rows without keys."""
    safe = "is_causal" in a  # fxpress.attention gives NaN there, as softmax does
    if a.get("is_causal"):
        lower = torch.ones(shape(scores)[-2:], dtype=torch.bool).tril()
        return rw.call(aten.where.ScalarOther, rw.constant("causal_mask", lower), scores, -inf, at=at), False
    mask = a["attn_mask"]
    if mask is None:
        return scores, False
    known = constant_view(mask, rw)
    if dtype(mask) == torch.bool:
        fill = -inf if a.get("fill") is None else a["fill"]
        hides = known is None or bool((~known).all(-1).any())
        return rw.call(aten.where.ScalarOther, mask, scores, fill, at=at), safe and hides
    hides = known is None or bool((known == -inf).all(-1).any())
    return rw.call(aten.add.Tensor, scores, mask, at=at), safe and hides
