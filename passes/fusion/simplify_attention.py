"""attention with a mask that is causal or hides nothing, or with repeated heads  ->  attention that says so"""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, call_again, is_call, is_static, shape
from .recognize_attention import constant_view

aten = torch.ops.aten

LOW = -1e9
"""A score this low has no weight next to any other."""
ATTENTION = (aten.scaled_dot_product_attention.default, fxpress.attention.default)


@rewrite(*ATTENTION, accuracy="reassociating")
def simplify_mask(node: Node, rw: Rewriter) -> None:
    """attention(q, k, v, mask)  ->  attention(q, k, v), is_causal=True when the constant mask says just that

    A constant mask that hides no row from all keys needs no more than scaled_dot_product_attention, whatever it is.
    """
    a = arguments(node)
    mask = None if a["attn_mask"] is None else constant_view(a["attn_mask"], rw)
    fill = a.get("fill")
    if mask is None or a.get("is_causal") or (fill is not None and fill > LOW):
        return
    shown, hidden = (mask, ~mask) if mask.dtype == torch.bool else (mask == 0, mask <= LOW)
    if bool(shown.all()):
        _rewritten(node, a, None, rw)
    elif _is_causal(shown, hidden) and mask.shape[-2:] == (shape(a["query"])[-2], shape(a["key"])[-2]):
        _rewritten(node, a, None, rw, is_causal=True)
    elif is_call(node, fxpress.attention.default) and not (hidden if fill is not None else mask == -inf).all(-1).any():
        _rewritten(node, a, a["attn_mask"], rw)


def _is_causal(shown: torch.Tensor, hidden: torch.Tensor) -> bool:
    if shown.dim() < 2 or shown.shape[-1] != shown.shape[-2]:
        return False
    lower = torch.ones(shown.shape[-2:], dtype=torch.bool).tril()
    return bool((shown == lower).all() and (hidden == ~lower).all())


def _rewritten(node: Node, a: dict[str, Any], mask: Node | None, rw: Rewriter, *, is_causal: bool = False) -> None:
    q, k, v = a["query"], a["key"], a["value"]
    kwargs = {name: a[name] for name in ("scale", "enable_gqa") if a[name] is not None and a[name] is not False}
    rw.replace(node, rw.call(ATTENTION[0], q, k, v, mask, 0.0, is_causal, at=node, **kwargs))


@rewrite(*ATTENTION, accuracy="reassociating")
def group_heads(node: Node, rw: Rewriter) -> None:
    """attention(q, repeat(k), repeat(v))  ->  attention(q, k, v, enable_gqa=True)

    `repeat` gives each head of k and v to several heads of q that follow one another.
    """
    a = arguments(node)
    key, value = _unrepeated(a["key"]), _unrepeated(a["value"])
    if a["enable_gqa"] or key is None or value is None or shape(key)[1] != shape(value)[1]:
        return
    rw.replace(node, call_again(node, rw, key=key, value=value, enable_gqa=True))


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
