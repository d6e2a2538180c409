"""layer norm and RMS norm written out  ->  aten.layer_norm, aten.rms_norm"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, dtype, is_call, is_number, is_static, only_user, same_type, shape
from ..pattern import Bindings, call, either, match

aten = torch.ops.aten


def _square(x: Any) -> Any:
    return either(call(aten.mul.Tensor, x, x), call(aten.pow.Tensor_Scalar, x, 2))


def _divided_by_root(x: Any, variance: Any) -> Any:
    """x / sqrt(variance + eps), in its spellings."""
    biased = call(aten.add.Tensor, variance, "eps")
    root = either(call(aten.sqrt.default, biased), call(aten.pow.Tensor_Scalar, biased, 0.5))
    inverse = either(
        call(aten.rsqrt.default, biased),
        call(aten.pow.Tensor_Scalar, biased, -0.5),
        call(aten.reciprocal.default, root),
    )
    return either(call(aten.mul.Tensor, x, inverse), call(aten.div.Tensor, x, root))


_RMS_NORM = _divided_by_root("x", call(aten.mean.dim, _square("x"), "dims", True))
_CENTRED = call(aten.sub.Tensor, "x", call(aten.mean.dim, "x", "dims", True))
_LAYER_NORM = _divided_by_root(
    _CENTRED,
    either(
        call(aten.mean.dim, _square(_CENTRED), "dims", True),
        call(aten.var.correction, "x", "dims", correction=0, keepdim=True),
    ),
)


@rewrite(aten.mul.Tensor, aten.div.Tensor, accuracy="reassociating")
def recognize_rms_norm(node: Node, rw: Rewriter) -> None:
    """x * rsqrt(mean(x * x) + eps)  ->  rms_norm(x, eps)"""
    found = match(_RMS_NORM, node)
    if found is not None:
        _replace(node, rw, found, lambda x, sizes, eps: rw.call(aten.rms_norm.default, x, sizes, None, eps, at=node))


@rewrite(aten.mul.Tensor, aten.div.Tensor, accuracy="reassociating")
def recognize_layer_norm(node: Node, rw: Rewriter) -> None:
    """(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + eps)  ->  layer_norm(x, eps)"""
    found = match(_LAYER_NORM, node)
    if found is not None:
        _replace(node, rw, found, lambda x, sizes, eps: _layer_norm(rw, node, x, sizes, eps))


def _layer_norm(rw: Rewriter, node: Node, x: Node, sizes: list[int], eps: float) -> Node:
    return rw.call(aten.layer_norm.default, x, sizes, None, None, eps, False, at=node)


def _replace(node: Node, rw: Rewriter, found: Bindings, norm: Any) -> None:
    """Norms take the last dims: move those normalised to the end, and back."""
    x, eps = found["x"], found["eps"]
    if not isinstance(x, Node) or not is_static(x) or not is_number(eps) or dtype(x) != dtype(node):
        return
    rank = len(shape(x))
    if rank == 0:
        return
    dims = sorted(d % rank for d in found["dims"])
    order = [d for d in range(rank) if d not in dims] + dims
    in_order = order == list(range(rank))
    if not in_order:
        x = rw.call(aten.permute.default, x, order, at=node)
    new = norm(x, list(shape(x)[rank - len(dims) :]), float(eps))
    if not in_order:
        new = rw.call(aten.permute.default, new, _inverse(order), at=node)
    rw.replace(node, new)


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=lambda i: order[i])


@rewrite(aten.rms_norm.default, aten.layer_norm.default, accuracy="reassociating")
def absorb_norm_weight(node: Node, rw: Rewriter) -> None:
    """layer_norm(x) * w + b  ->  layer_norm(x, w, b); rms_norm(x) * w  ->  rms_norm(x, w), with constant w and b

    Also with a permute between the norm and the product, as norms over other than the last dims have it.
    """
    a, value, user = arguments(node), node, only_user(node)
    order = list(range(len(shape(node))))
    if is_call(user, aten.permute.default):
        order = [d % len(order) for d in user.args[1]]  # type: ignore[union-attr]
        value, user = user, only_user(user)
    name = _absorbed(a, user)
    if user is None or name is None or not same_type(value, user):
        return
    other = user.args[1] if user.args[0] is value else user.args[0]
    vector = _normalized_constant(rw.value(other), order, list(a["normalized_shape"]))
    if vector is None or vector.dtype != dtype(node):
        return
    a[name] = other if list(shape(other)) == list(vector.shape) else rw.constant(f"{other.target}_{name}", vector)
    new = rw.call(node.target, *a.values(), at=user)
    if value is not node:
        new = rw.call(aten.permute.default, new, order, at=user)
    rw.replace(user, new)


def _absorbed(a: dict[str, Any], user: Node | None) -> str | None:
    """Which argument of the norm (its arguments are `a`) the user stands for."""
    if is_call(user, aten.mul.Tensor) and a["weight"] is None and a.get("bias") is None:
        return "weight"
    if is_call(user, aten.add.Tensor) and not user.kwargs and "bias" in a and a["bias"] is None:  # type: ignore[union-attr]
        return "bias"
    return None


def _normalized_constant(value: torch.Tensor | None, order: Sequence[int], sizes: list[int]) -> torch.Tensor | None:
    """A constant that is broadcast after a permute by `order`, over the normalised dims; None if it needs others."""
    if value is None or value.dim() > len(order):
        return None
    value = value.reshape([1] * (len(order) - value.dim()) + list(value.shape)).permute(_inverse(order))
    return value.reshape(sizes) if list(value.shape) == [1] * (len(order) - len(sizes)) + sizes else None
