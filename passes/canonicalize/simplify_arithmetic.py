"""pow(x, 2)  ->  x * x, and other cheaper spellings with the same bits"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, dtype, is_call, is_number, same_type

aten = torch.ops.aten


@rewrite(aten.pow.Tensor_Scalar)
def expand_pow(node: Node, rw: Rewriter) -> None:
    """x ** 2  ->  x * x, and so for 3, 0.5, -0.5, -1 and -2: what PyTorch itself computes for them"""
    x, exponent = node.args
    if not dtype(node).is_floating_point or not isinstance(x, Node) or dtype(x) != dtype(node):
        return
    if exponent not in (2, 3, 0.5, -0.5, -1, -2):
        return
    rw.replace(node, _power(node, rw, x, exponent))


def _power(node: Node, rw: Rewriter, x: Node, exponent: Any) -> Node:
    if exponent == 0.5:
        return rw.call(aten.sqrt.default, x, at=node)
    if exponent == -0.5:
        return rw.call(aten.rsqrt.default, x, at=node)
    if exponent == -1:
        return rw.call(aten.reciprocal.default, x, at=node)
    square = rw.call(aten.mul.Tensor, x, x, at=node)
    if exponent == 2:
        return square
    if exponent == 3:
        return rw.call(aten.mul.Tensor, square, x, at=node)
    return rw.call(aten.reciprocal.default, square, at=node)


@rewrite(aten.div.Tensor)
def divide_by_power_of_two(node: Node, rw: Rewriter) -> None:
    """x / 8  ->  x * 0.125, for powers of two, whose reciprocal is exact"""
    x, divisor = node.args
    if not isinstance(x, Node) or not is_number(divisor) or not dtype(x).is_floating_point:
        return
    if abs(math.frexp(divisor)[0]) != 0.5 or not 2.0**-100 <= abs(divisor) <= 2.0**100:
        return
    rw.replace(node, rw.call(aten.mul.Tensor, x, 1.0 / divisor, at=node))


@rewrite(aten.mul.Tensor)
def multiply_by_minus_one(node: Node, rw: Rewriter) -> None:
    """x * -1  ->  -x"""
    x, factor = node.args
    if isinstance(x, Node) and is_number(factor) and factor == -1 and same_type(x, node):
        rw.replace(node, rw.call(aten.neg.default, x, at=node))


@rewrite(aten.neg.default, aten.relu.default, aten.abs.default)
def drop_repetition(node: Node, rw: Rewriter) -> None:
    """-(-x)  ->  x; relu(relu(x))  ->  relu(x); abs(abs(x))  ->  abs(x)"""
    inner = node.args[0]
    if not is_call(inner, node.target):
        return
    rw.replace(node, inner.args[0] if node.target is aten.neg.default else inner)


@rewrite(aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default, aten.relu6.default)
def normalize_clamp(node: Node, rw: Rewriter) -> None:
    """hardtanh(x, low, high), relu6(x)  ->  clamp(x, low, high); clamp(x, 0)  ->  relu(x)"""
    a = arguments(node)
    x = a["self"]
    low, high = a.get("min", a.get("min_val", 0.0)), a.get("max", a.get("max_val", 6.0 if _is_relu6(node) else None))
    if low == 0 and high is None and dtype(x) == dtype(node):
        rw.replace(node, rw.call(aten.relu.default, x, at=node))
    elif node.target is not aten.clamp.default:
        rw.replace(node, rw.call(aten.clamp.default, x, low, high, at=node))


def _is_relu6(node: Node) -> bool:
    return node.target is aten.relu6.default


@rewrite(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
def inline_scalar_constant(node: Node, rw: Rewriter) -> None:
    """x * constant of one element  ->  x * number"""
    x, operand = node.args[:2]
    tensor = rw.value(operand)
    if tensor is None and node.target in (aten.add.Tensor, aten.mul.Tensor) and rw.value(x) is not None:
        if node.kwargs.get("alpha", 1) != 1:
            return
        x, operand, tensor = operand, x, rw.value(x)
    if tensor is None or tensor.numel() != 1 or not isinstance(x, Node) or x.op == "get_attr":
        return
    if tensor.dtype not in (torch.float32, torch.float64, torch.int64, torch.int32) or not same_type(x, node):
        return
    rw.replace(node, rw.call(node.target, x, tensor.item(), at=node, **node.kwargs))
