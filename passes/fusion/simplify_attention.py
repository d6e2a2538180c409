"""attention with a mask that is causal or hides nothing, or with repeated heads  ->  attention that says so"""

from __future__ import annotations

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_call, is_static, shape
from .recognize_attention import constant_view

aten = torch.ops.aten

LOW = -1e9
"""A score this low has no weight next to any other."""


@rewrite(aten.scaled_dot_product_attention.default, accuracy="reassociating")
def simplify_mask(node: Node, rw: Rewriter) -> None:
    """attention(q, k, v, mask)  ->  attention(q, k, v), is_causal=True when the constant mask says just that"""
    a = arguments(node)
    mask = None if a["attn_mask"] is None else constant_view(a["attn_mask"], rw)
    if mask is None or a["is_causal"]:
        return
    shown, hidden = (mask, ~mask) if mask.dtype == torch.bool else (mask == 0, mask <= LOW)
    if bool(shown.all()):
        _without_mask(node, a, rw, is_causal=False)
    elif _is_causal(shown, hidden) and mask.shape[-2:] == (shape(a["query"])[-2], shape(a["key"])[-2]):
        _without_mask(node, a, rw, is_causal=True)


def _is_causal(shown: torch.Tensor, hidden: torch.Tensor) -> bool:
    if shown.dim() < 2 or shown.shape[-1] != shown.shape[-2]:
        return False
    lower = torch.ones(shown.shape[-2:], dtype=torch.bool).tril()
    return bool((shown == lower).all() and (hidden == ~lower).all())


def _without_mask(node: Node, a: dict[str, object], rw: Rewriter, *, is_causal: bool) -> None:
    q, k, v = a["query"], a["key"], a["value"]
    kwargs = {name: a[name] for name in ("scale", "enable_gqa") if a[name]}
    rw.replace(node, rw.call(node.target, q, k, v, None, a["dropout_p"], is_causal, at=node, **kwargs))


@rewrite(aten.scaled_dot_product_attention.default, accuracy="reassociating")
def group_heads(node: Node, rw: Rewriter) -> None:
    """attention(q, repeat(k), repeat(v))  ->  attention(q, k, v, enable_gqa=True)

    `repeat` gives each head of k and v to several heads of q that follow one another.
    """
    a = arguments(node)
    key, value = _unrepeated(a["key"]), _unrepeated(a["value"])
    if a["enable_gqa"] or key is None or value is None or shape(key)[1] != shape(value)[1]:
        return
    kwargs = {"scale": a["scale"]} if a["scale"] is not None else {}
    rw.replace(
        node,
        rw.call(
            node.target, a["query"], key, value, a["attn_mask"], a["dropout_p"], a["is_causal"], at=node,
            enable_gqa=True, **kwargs,
        ),
    )  # fmt: skip


def _unrepeated(x: Node) -> Node | None:
    """[b, heads, t, d] of its reshape(expand(reshape(x, [b, heads, 1, t, d]), [b, heads, times, t, d])), or None."""
    if is_call(x, aten.expand.default) and len(shape(x)) == len(shape(x.args[0])) == 4:
        one: Node = x.args[0]
        return one if shape(one) == (shape(x)[0], 1, *shape(x)[2:]) else None
    if not is_call(x, aten.reshape.default) or not is_call(x.args[0], aten.expand.default) or len(shape(x)) != 4:
        return None
    expand: Node = x.args[0]
    inner: Node = expand.args[0]
    if not is_static(inner) or len(shape(inner)) != 5 or shape(inner)[2] != 1:
        return None
    batch, heads, times, t, d = shape(expand)
    if shape(inner) != (batch, heads, 1, t, d) or shape(x) != (batch, heads * times, t, d):
        return None
    if is_call(inner, aten.reshape.default) and shape(inner.args[0]) == (batch, heads, t, d):
        return inner.args[0]
    if is_call(inner, aten.unsqueeze.default) and inner.args[1] == 2:
        return inner.args[0]
    return None
