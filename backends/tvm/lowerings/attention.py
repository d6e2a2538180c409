"""Scaled dot-product attention on strided views, so that heads need no copies on either side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ....cpu import CpuTarget
from ..kernels.attention import Attention, Heads, Mask, mask_numbers
from ..kernels.integer_attention import IntegerAttention
from ..kernels.pointwise import Pointwise, copy_kernel, pointwise_kernel
from ..kernels.pointwise_program import Instruction, Stream
from ..lowering import Lowering, OpRule
from ..views import View
from .view_ops import argument

aten = torch.ops.aten
fxpress = torch.ops.fxpress
SWAPPED = [0, 1, 3, 2]  # queries and keys
TO_ROWS = ([0, 2, 1, 3], [1, 2])  # the permute or transpose that puts heads behind rows


def check(node: Node, target: CpuTarget) -> str | None:
    query, key, value = (n.meta["val"] for n in node.args[:3])
    if any(x.dtype != torch.float32 for x in (query, key, value)):
        return f"its operands must be float32, not {query.dtype}"
    if query.dim() not in (3, 4) or key.dim() != query.dim() or value.dim() != query.dim():
        return f"its operands must have 3 or 4 dimensions, not {query.dim()}"
    if query.dim() == 4 and key.shape[0] != query.shape[0]:
        return "its operands must have one batch size"
    if node.target is aten.scaled_dot_product_attention.default and argument(node, 4, "dropout_p", 0.0):
        return "dropout must be 0"
    mask = argument(node, 3, "attn_mask")
    if mask is not None and mask.meta["val"].dtype not in (torch.float32, torch.bool):
        return f"its mask must be float32 or bool, not {mask.meta['val'].dtype}"
    return None


def check_strict(node: Node, target: CpuTarget) -> str | None:
    mask, fill = node.args[3:5]
    expected = torch.float32 if fill is None else torch.bool
    if mask.meta["val"].dtype != expected:
        return f"its mask must be {expected}, not {mask.meta['val'].dtype}"
    return check(node, target)


def attention(node: Node, cx: Lowering) -> None:
    scale = argument(node, 6, "scale")
    _attention(node, cx, None if scale is None else float(scale), causal=bool(argument(node, 5, "is_causal", False)))


def strict_attention(node: Node, cx: Lowering) -> None:
    fill, scale = node.args[4:6]
    _attention(node, cx, float(scale), fill=None if fill is None else float(fill), strict=True)


def _attention(
    node: Node,
    cx: Lowering,
    scale: float | None,
    *,
    fill: float | None = None,
    causal: bool = False,
    strict: bool = False,
) -> None:
    q, k, v = (_four_dims(_dense_last(cx, n)) for n in node.args[:3])
    mask = argument(node, 3, "attn_mask")
    y = _output(node, cx)
    out = _four_dims(y)
    batch, heads, queries, depth = q.shape
    added, masked = None, None
    if mask is not None:
        added = _mask(mask, fill, (*node.args[0].meta["val"].shape[:-1], k.shape[2]), cx)
        masked = _layout(added, fill)
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
        causal=causal,
        strict=strict,
        scale=scale,
    )
    cx.call(kernel, q, k, v, *([added] if added is not None else []), out)


def check_quantized(node: Node, target: CpuTarget) -> str | None:
    a = arguments(node)
    query, key, mask = a["query"].meta["val"], a["key"].meta["val"], a["attn_mask"]
    if query.dim() not in (3, 4) or key.dim() != query.dim():
        return f"its operands must have 3 or 4 dimensions, not {query.dim()}"
    if query.dim() == 4 and key.shape[0] != query.shape[0]:
        return "its operands must have one batch size"
    if mask is not None and mask.meta["val"].dtype not in (torch.float32, torch.bool):
        return f"its mask must be float32 or bool, not {mask.meta['val'].dtype}"
    return None


def quantized_attention(node: Node, cx: Lowering) -> None:
    a = arguments(node)
    q, k, v = (_four_dims(_dense_biased(cx, a[name])) for name in ("query", "key", "value"))
    y = _output(node, cx)
    out = _four_dims(y)
    batch, heads, queries, depth = q.shape
    added = None
    if a["attn_mask"] is not None:
        added = _mask(a["attn_mask"], None, (*a["query"].meta["val"].shape[:-1], k.shape[2]), cx)
    kernel = IntegerAttention.choose(
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
        mask=None if added is None else _layout(added, None),
        causal=a["is_causal"],
    )
    numbers = kernel.pack_numbers(
        a["query_scale"] * a["key_scale"] * a["scale"],
        a["key_zero"],
        a["value_scale"] / a["y_scale"],
        a["value_zero"],
        a["y_zero"],
    )
    cx.call(kernel, q, k, v, *([added] if added is not None else []), cx.constant(numbers), out)


def _dense_biased(cx: Lowering, node: Node) -> View:
    view = cx.biased(node)
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else cx.contiguous(view)


def _layout(mask: View, fill: float | None) -> Mask:
    batch, head, query, key = mask.strides
    return Mask(mask.dtype, batch, head, query, key, period=mask.shape[0], fill=fill)


def _mask(mask: Node, fill: float | None, shape: tuple[int, ...], cx: Lowering) -> View:
    """The mask over [batch, head, query, key] in a form that scores can take as it lies."""
    view = _four_dims(cx.view(mask).expand(shape))
    if _layout(view, fill).direct:
        return view
    key = f"mask {mask.name} by keys for {shape}, {fill}"
    by_keys: View = cx.cached(key, lambda: _by_keys(mask, fill, view, cx))
    return by_keys


def _by_keys(mask: Node, fill: float | None, view: View, cx: Lowering) -> View:
    """The mask as numbers, queries dense: made once for all heads and layers that share the mask."""
    compact = view
    for dim in (0, 1):
        if view.strides[dim] == 0:
            compact = compact.slice(dim, 0, 1)
    constant = cx.constant_tensor(mask) is not None
    allocate, call = (cx.derived, cx.prepare) if constant else (cx.temporary, cx.call)
    by_keys = allocate([compact.shape[d] for d in SWAPPED])
    call(_as_numbers(compact, fill, by_keys.permute(SWAPPED), cx.target), compact, by_keys)
    return by_keys.permute(SWAPPED).expand(view.shape)


def _output(node: Node, cx: Lowering) -> View:
    shape, biased = tuple(node.meta["val"].shape), node.meta["val"].dtype == torch.int8
    if len(shape) == 4 and any(_heads_behind_rows(user) for user in node.users):
        b, h, s, d = shape
        y = cx.temporary((b, s, h, d), "uint8" if biased else "float32").permute([0, 2, 1, 3])
        y = replace(y, biased=biased)
        cx.alias(node, y)
        return y
    return cx.output(node, strided=True, biased=biased)


def _heads_behind_rows(user: Node) -> bool:
    if user.target == aten.permute.default:
        return list(user.args[1]) == TO_ROWS[0]
    return user.target == aten.transpose.int and sorted(d % 4 for d in user.args[1:]) == TO_ROWS[1]


def _as_numbers(mask: View, fill: float | None, by_keys: View, target: CpuTarget) -> Pointwise:
    """The kernel that writes a mask as floats: itself, or what a bool stands for."""
    if mask.dtype == "float32":
        return copy_kernel(mask.shape, mask.dtype, mask.strides, by_keys.strides, target)
    shown, hidden = mask_numbers(fill)
    program = (
        Instruction("input", (), "bool", (0,)),
        Instruction("constant", (), "float32", (shown,)),
        Instruction("constant", (), "float32", (hidden,)),
        Instruction("where", (0, 1, 2), "float32"),
    )
    streams = Stream("bool", mask.strides), Stream("float32", by_keys.strides)
    return pointwise_kernel(mask.shape, streams[:1], streams[1:], program, (3,), target)


def _dense_last(cx: Lowering, node: Node) -> View:
    view = cx.view(node)
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else cx.contiguous(view)


def _four_dims(view: View) -> View:
    if len(view.shape) == 4:
        return view
    shape, strides = (view.shape[0], 1, *view.shape[1:]), (view.strides[0], 0, *view.strides[1:])
    return replace(view, shape=shape, strides=strides)


def _heads(view: View) -> Heads:
    return Heads(*view.strides[:3])


RULES: dict[Any, OpRule] = {
    aten.scaled_dot_product_attention.default: OpRule(attention, check),
    fxpress.attention.default: OpRule(strict_attention, check_strict),
    fxpress.quantized_attention.default: OpRule(quantized_attention, check_quantized),
}
