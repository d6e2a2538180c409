"""linear, addmm, baddbmm, mm, bmm, matmul  ->  fxpress.linear (constant weight) or aten.matmul"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_call, is_constant, only_user, shape

aten = torch.ops.aten

PRODUCTS = (aten.mm.default, aten.bmm.default, aten.matmul.default)
SUMS = (aten.addmm.default, aten.baddbmm.default)


@rewrite(aten.linear.default, *PRODUCTS, *SUMS, accuracy="reassociating")
def normalize_linear(node: Node, rw: Rewriter) -> None:
    """addmm(b, x, w)  ->  fxpress.linear(x, w.T, b); a product of computed values  ->  aten.matmul

    The weight of fxpress.linear is a constant [n, k], its bias a constant [n]; another bias is added afterwards.
    Operands of aten.matmul have two dims at least.
    """
    a = arguments(node)
    if node.target is aten.linear.default:
        new = _linear(node, rw, a["input"], a["weight"], a["bias"])
    elif node.target in SUMS:
        new = _sum(node, rw, a)
    elif _is_normal(node):
        return
    else:
        new = _product(node, rw, *node.args[:2])
    rw.replace(node, new)


def _is_normal(node: Node) -> bool:
    """Whether the product is an aten.matmul that stays as it is."""
    x, weight = node.args[:2]
    ranks = [len(shape(operand)) for operand in (x, weight)]
    return node.target is aten.matmul.default and min(ranks) >= 2 and not _is_weight(x, weight)


def _is_weight(x: Any, weight: Any) -> bool:
    """Whether `x @ weight` is a linear layer: weight is a constant vector or matrix, but for leading ones."""
    if not is_constant(weight) or not weight.meta["val"].is_floating_point():
        return False
    sizes = shape(weight)
    return all(size == 1 for size in sizes[:-2]) and len(sizes) <= max(len(shape(x)), 2)


def _linear(node: Node, rw: Rewriter, x: Node, weight: Node, bias: Node | None) -> Node:
    if is_constant(weight) and len(shape(weight)) == 2:
        if len(shape(x)) > 1:
            return _linear_op(node, rw, x, weight, bias)
        row = _linear_op(node, rw, rw.call(aten.unsqueeze.default, x, 0, at=node), weight, bias)
        return rw.call(aten.squeeze.dims, row, [0], at=node)
    order = list(range(len(shape(weight))))[::-1]
    product = _product(node, rw, x, rw.call(aten.permute.default, weight, order, at=node))
    return product if bias is None else rw.call(aten.add.Tensor, product, bias, at=node)


def _sum(node: Node, rw: Rewriter, a: dict[str, Any]) -> Node:
    x, weight = (a["mat1"], a["mat2"]) if "mat1" in a else (a["batch1"], a["batch2"])
    bias, alpha, beta = a["self"], a["alpha"], a["beta"]
    if alpha == beta == 1 and _is_weight(x, weight):
        return _linear_op(node, rw, x, _transposed(rw, weight), bias)
    product = _scaled(node, rw, _product(node, rw, x, weight), alpha)
    return product if beta == 0 else rw.call(aten.add.Tensor, product, _scaled(node, rw, bias, beta), at=node)


def _scaled(node: Node, rw: Rewriter, x: Node, factor: float) -> Node:
    return x if factor == 1 else rw.call(aten.mul.Tensor, x, factor, at=node)


def _product(node: Node, rw: Rewriter, x: Node, weight: Node) -> Node:
    is_row, is_column = len(shape(x)) == 1, len(shape(weight)) == 1
    if is_row:
        x = rw.call(aten.unsqueeze.default, x, 0, at=node)
    if _is_weight(x, weight):
        product = _linear_op(node, rw, x, _transposed(rw, weight), None)
    else:
        weight = rw.call(aten.unsqueeze.default, weight, 1, at=node) if is_column else weight
        product = rw.call(aten.matmul.default, x, weight, at=node)
    drop = [-2] * is_row + [-1] * is_column
    return rw.call(aten.squeeze.dims, product, drop, at=node) if drop else product


def _transposed(rw: Rewriter, weight: Node) -> Node:
    """The constant [n, k] of a constant [..., k, n] or [k]."""
    tensor = rw.program.constant(weight)
    tensor = tensor.reshape(1, -1) if tensor.dim() == 1 else tensor.reshape(tensor.shape[-2:]).T
    return rw.constant(f"{weight.target}_transposed", tensor.contiguous())


def _linear_op(node: Node, rw: Rewriter, x: Node, weight: Node, bias: Node | None) -> Node:
    vector = _vector(rw, bias, shape(weight)[0])
    product = rw.call(fxpress.linear.default, x, weight, vector, None, "none", at=node)
    return product if bias is None or vector is not None else rw.call(aten.add.Tensor, product, bias, at=node)


def _vector(rw: Rewriter, bias: Node | None, n: int) -> Node | None:
    """The constant [n] for a constant bias [..., n], None for any other bias."""
    tensor = rw.value(bias)
    if bias is None or tensor is None or tensor.numel() != n or tensor.shape[-1:] != (n,):
        return None
    return bias if tensor.dim() == 1 else rw.constant(f"{bias.target}_vector", tensor.reshape(n))


@rewrite(fxpress.linear.default, accuracy="reassociating")
def unflatten_linear(node: Node, rw: Rewriter) -> None:
    """reshape(linear(reshape(x, [-1, k])))  ->  reshape(reshape(linear(x)))

    Reassociating, since PyTorch may multiply matrices of another shape by another algorithm.
    """
    a = arguments(node)
    flat, user = a["x"], only_user(node)
    if not is_call(flat, aten.reshape.default) or not is_call(user, aten.reshape.default) or a["residual"] is not None:
        return
    x = flat.args[0]
    if len(shape(x)) < 2 or shape(x)[-1] != shape(flat)[-1]:
        return
    product = rw.call(fxpress.linear.default, x, a["weight"], a["bias"], None, a["activation"], at=node)
    rw.replace(node, rw.call(aten.reshape.default, product, list(shape(node)), at=node))
