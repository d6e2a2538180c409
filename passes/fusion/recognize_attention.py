"""softmax(q @ k.T * scale + mask) @ v  ->  attention(q, k, v, mask, scale)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, dtype, is_call, is_number, is_static, shape

aten = torch.ops.aten

PRODUCTS = (aten.matmul.default, aten.bmm.default)
VIEWS = (aten.reshape.default, aten.permute.default, aten.expand.default)
FILLS = (
    aten.where.self,
    aten.where.ScalarSelf,
    aten.where.ScalarOther,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
)


@dataclass(frozen=True)
class Scores:
    """What softmax is taken of: `product * scale + mask`, the mask added where the product has the sizes `sizes`.

    With `fill` the mask is bool, and what it does not keep (what it hides, if `hides`) becomes that number.
    """

    product: Node
    scale: float = 1.0
    mask: Node | None = None
    fill: float | None = None
    hides: bool = False
    sizes: tuple[int, ...] = ()


@rewrite(*PRODUCTS, accuracy="reassociating")
def recognize_attention(node: Node, rw: Rewriter) -> None:
    """softmax(q @ k.T * scale + mask) @ v  ->  attention(q, k, v, mask, scale)

    The scale may be on q, k or the product, as a factor or divisor; the mask is added or filled in. Left alone: when
    somebody else uses the probabilities or scores.
    """
    probabilities, values = node.args
    softmax = _through_reshapes(probabilities)
    if not is_call(softmax, aten.softmax.int) or softmax.args[1] not in (-1, len(shape(softmax)) - 1):
        return
    if not all(is_static(n) for n in node.all_input_nodes):
        rw.skip(node, "attention must have sizes that are known to be recognised")
        return
    scores = _scores(softmax.args[0], softmax, rw)
    if scores is None:
        rw.skip(node, "softmax(x) @ v is no attention: x is not scores, or the scores are used elsewhere")
        return
    if any(len(n.users) != 1 for n in (probabilities, softmax)):
        rw.skip(node, "attention's probabilities are used elsewhere")
        return
    _write(node, values, scores, rw)


def _write(node: Node, values: Node, scores: Scores, rw: Rewriter) -> None:
    queries, query_scale = _unscaled(scores.product.args[0], node, rw)
    keys, key_scale = _unscaled(scores.product.args[1], node, rw)
    keys = _permuted(keys, [*range(len(shape(keys)) - 2), -1, -2], node, rw)
    scale = scores.scale * query_scale * key_scale
    batch = [*(scores.sizes or shape(scores.product))[:-2]]
    flat = [1] * (2 - len(batch)) + batch  # always two dims: batch and heads
    operands = []
    for x in (queries, keys, values):
        sizes = list(shape(x)[-2:])
        if prod(shape(x)[:-2]) != prod(batch):
            whole = list(shape(scores.product)[:-2])
            x = rw.call(aten.expand.default, x, whole + sizes, at=node)
        operands.append(_reshaped(x, flat + sizes, node, rw))
    mask = scores.mask
    if mask is None:
        attention = rw.call(
            aten.scaled_dot_product_attention.default, *operands, None, 0.0, False, at=node, scale=scale
        )
    else:
        if len(flat) > len(batch) and len(shape(mask)) == len(batch) + 2:
            mask = _reshaped(mask, [1] * (len(flat) - len(batch)) + list(shape(mask)), node, rw)
        if scores.hides:
            mask = rw.call(aten.logical_not.default, mask, at=node)
        attention = rw.call(fxpress.attention.default, *operands, mask, scores.fill, scale, False, at=node)
    rw.replace(node, _reshaped(attention, list(shape(node)), node, rw))


def _scores(x: Node, user: Node, rw: Rewriter) -> Scores | None:
    """Read `x` as scaled and masked scores; nobody but `user` may use it."""
    if list(x.users) != [user] or dtype(x) != torch.float32:
        return None
    if is_call(x, *PRODUCTS):
        return Scores(x)
    if is_call(x, aten.mul.Tensor, aten.div.Tensor) and is_number(x.args[1]):
        inner = _scores(x.args[0], x, rw)
        factor = x.args[1] if x.target is aten.mul.Tensor else 1 / x.args[1]
        return replace(inner, scale=inner.scale * factor) if inner is not None and inner.mask is None else None
    if is_call(x, aten.reshape.default):
        before, after = shape(x.args[0]), shape(x)
        inner = _scores(x.args[0], x, rw) if before[-2:] == after[-2:] else None
        return inner if inner is None or inner.mask is None else _regrouped(inner, x, rw)
    if is_call(x, aten.add.Tensor) and not x.kwargs:
        return _add(x, rw)
    return _fill(x, rw) if is_call(x, *FILLS) else None


def _add(x: Node, rw: Rewriter) -> Scores | None:
    for scores, mask in (x.args, x.args[::-1]):
        if not isinstance(scores, Node) or not isinstance(mask, Node) or shape(scores) != shape(x):
            continue
        inner = _scores(scores, x, rw)
        if inner is not None:
            return _masked(inner, mask, x, rw)
    return None


def _masked(inner: Scores, mask: Node, at: Node, rw: Rewriter) -> Scores | None:
    if dtype(mask) != torch.float32 or inner.fill is not None:
        return None
    if inner.mask is None:
        return replace(inner, mask=mask, sizes=shape(at))
    if inner.sizes != shape(at):
        return None
    return replace(inner, mask=rw.call(aten.add.Tensor, inner.mask, mask, at=at))


def _fill(x: Node, rw: Rewriter) -> Scores | None:
    """masked_fill(scores, mask, number), where(mask, number, scores) or where(mask, scores, number)."""
    a: Any = x.args
    masked_fill = is_call(x, aten.masked_fill.Scalar, aten.masked_fill.Tensor)
    orders = [(a[1], a[2], a[0], True)] if masked_fill else [(a[0], a[1], a[2], True), (a[0], a[2], a[1], False)]
    for mask, number, scores, hides in orders:
        value = number if is_number(number) else _number(number, rw)
        if value is None or value == inf or not isinstance(scores, Node) or shape(scores) != shape(x):
            continue
        inner = _scores(scores, x, rw)
        if inner is not None and inner.mask is None and dtype(mask) == torch.bool:
            return replace(inner, mask=mask, fill=float(value), hides=hides, sizes=shape(x))
    return None


def _regrouped(inner: Scores, at: Node, rw: Rewriter) -> Scores | None:
    """The scores with their batch dims reshaped as `at` does; their mask is expanded first, if that costs nothing."""
    assert inner.mask is not None
    batch, rows = list(inner.sizes[:-2]), list(shape(inner.mask)[-2:])
    whole = list(shape(inner.mask)[:-2]) == batch
    if not whole and constant_view(inner.mask, rw) is None:
        return None
    mask = inner.mask if whole else rw.call(aten.expand.default, inner.mask, batch + rows, at=at)
    return replace(inner, mask=_reshaped(mask, [*shape(at)[:-2], *rows], at, rw), sizes=shape(at))


def _number(x: Node | float, rw: Rewriter) -> float | None:
    """The value of a constant with one element, however it is made."""
    if is_call(x, aten.full.default, aten.scalar_tensor.default):
        assert isinstance(x, Node)
        a = arguments(x)
        return float(a["s"] if "s" in a else a["fill_value"])
    value = rw.value(x)
    return value.item() if value is not None and value.numel() == 1 else None


def constant_view(x: Node, rw: Rewriter) -> torch.Tensor | None:
    """The value of a constant or a view of one, None for anything else."""
    if is_call(x, *VIEWS):
        inner = constant_view(x.args[0], rw)
        return None if inner is None else x.target(inner, *x.args[1:])
    return rw.value(x)


def _through_reshapes(x: Node) -> Node:
    """What a reshape or expand that keeps the last two dims is made of."""
    while is_call(x, aten.reshape.default, aten.expand.default) and shape(x)[-2:] == shape(x.args[0])[-2:]:
        if prod(shape(x)) != prod(shape(x.args[0])) or len(x.users) != 1:
            break
        x = x.args[0]
    return x


def _unscaled(x: Node, at: Node, rw: Rewriter) -> tuple[Node, float]:
    """`x` without the number that it, or what it is a view of, was multiplied by; and that number."""
    if len(x.users) == 1 and is_call(x, aten.mul.Tensor, aten.div.Tensor) and is_number(x.args[1]):
        factor: float = x.args[1]
        return x.args[0], factor if x.target is aten.mul.Tensor else 1 / factor
    if len(x.users) == 1 and is_call(x, *VIEWS):
        inner, factor = _unscaled(x.args[0], at, rw)
        return (x, 1.0) if inner is x.args[0] else (rw.call(x.target, inner, *x.args[1:], at=at), factor)
    return x, 1.0


def _permuted(x: Node, dims: Sequence[int], at: Node, rw: Rewriter) -> Node:
    """permute(x, dims), in one step where `x` is permuted already, or `x` itself where both undo each other."""
    order = [d % len(dims) for d in dims]
    if is_call(x, aten.permute.default):
        inner: list[int] = x.args[1]
        x, order = x.args[0], [inner[d] % len(dims) for d in order]
    return x if order == sorted(order) else rw.call(aten.permute.default, x, order, at=at)


def _reshaped(x: Node, sizes: Sequence[int], at: Node, rw: Rewriter) -> Node:
    return x if list(shape(x)) == list(sizes) else rw.call(aten.reshape.default, x, list(sizes), at=at)
