"""Scaled dot-product attention on strided views, so that heads need no copies on either side."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ....target import Target
from ..kernels.attention import Attention, Heads, Mask
from ..lowering import Lowering, OpRule
from ..views import View
from .view_ops import argument

aten = torch.ops.aten
TO_ROWS = ([0, 2, 1, 3], [1, 2])  # the permute or transpose that puts heads behind rows


def check(node: Node, target: Target) -> str | None:
    query, key, value = (n.meta["val"] for n in node.args[:3])
    if any(x.dtype != torch.float32 for x in (query, key, value)):
        return f"its operands must be float32, not {query.dtype}"
    if query.dim() not in (3, 4) or key.dim() != query.dim() or value.dim() != query.dim():
        return f"its operands must have 3 or 4 dimensions, not {query.dim()}"
    if query.dim() == 4 and key.shape[0] != query.shape[0]:
        return "its operands must have one batch size"
    if argument(node, 4, "dropout_p", 0.0):
        return "dropout must be 0"
    mask = argument(node, 3, "attn_mask")
    if mask is not None and mask.meta["val"].dtype not in (torch.float32, torch.bool):
        return f"its mask must be float32 or bool, not {mask.meta['val'].dtype}"
    return None


def attention(node: Node, cx: Lowering) -> None:
    q, k, v = (_four_dims(_dense_last(cx, n)) for n in node.args[:3])
    mask = argument(node, 3, "attn_mask")
    scale = argument(node, 6, "scale")
    y = _output(node, cx)
    out = _four_dims(y)
    batch, heads, queries, depth = q.shape
    added, masked = None, None
    if mask is not None:
        added = cx.view(mask).expand((*node.args[0].meta["val"].shape[:-1], k.shape[2]))
        added = _four_dims(added)
        per_batch, per_head, per_query, per_key = added.strides
        masked = Mask(added.dtype, per_batch, per_head, per_query, per_key, period=batch)
    kernel = Attention.choose(
        batch=batch,
        heads=heads,
        kv_heads=k.shape[1],
        queries=queries,
        keys=k.shape[2],
        depth=depth,
        value_depth=v.shape[3],
        target=cx.target,
        q=_heads(q),
        k=_heads(k),
        v=_heads(v),
        y=_heads(out),
        mask=masked,
        causal=bool(argument(node, 5, "is_causal", False)),
        scale=None if scale is None else float(scale),
    )
    cx.call(kernel, q, k, v, *([added] if added is not None else []), out)


def _output(node: Node, cx: Lowering) -> View:
    shape = tuple(node.meta["val"].shape)
    if len(shape) == 4 and any(_heads_behind_rows(user) for user in node.users):
        b, h, s, d = shape
        y = cx.temporary((b, s, h, d)).permute([0, 2, 1, 3])
        cx.alias(node, y)
        return y
    return cx.output(node, strided=True)


def _heads_behind_rows(user: Node) -> bool:
    if user.target == aten.permute.default:
        return list(user.args[1]) == TO_ROWS[0]
    return user.target == aten.transpose.int and sorted(d % 4 for d in user.args[1:]) == TO_ROWS[1]


def _dense_last(cx: Lowering, node: Node) -> View:
    view = cx.view(node)
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else cx.contiguous(view)


def _four_dims(view: View) -> View:
    if len(view.shape) == 4:
        return view
    return View(view.storage, view.offset, (view.shape[0], 1, *view.shape[1:]), (view.strides[0], 0, *view.strides[1:]))


def _heads(view: View) -> Heads:
    return Heads(*view.strides[:3])


RULES: dict[Any, OpRule] = {aten.scaled_dot_product_attention.default: OpRule(attention, check)}
