"""GELU, SiLU, hard-swish, Mish and sigmoid written out  ->  their ops"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_call, is_number, only_user, same_type
from ..pattern import call, either, match

aten = torch.ops.aten

TOLERANCE = 1e-5  # of written-out numbers such as 0.7071 against sqrt(1/2)

_LOGISTIC_DENOMINATOR = call(aten.add.Tensor, call(aten.exp.default, call(aten.neg.default, "x")), 1)
_SIGMOID = either(call(aten.reciprocal.default, _LOGISTIC_DENOMINATOR), call(aten.div.Tensor, 1, _LOGISTIC_DENOMINATOR))


@rewrite(aten.reciprocal.default, aten.div.Tensor, accuracy="reassociating")
def recognize_sigmoid(node: Node, rw: Rewriter) -> None:
    """1 / (1 + exp(-x))  ->  sigmoid(x)"""
    found = match(_SIGMOID, node)
    if found is not None and isinstance(found["x"], Node) and same_type(found["x"], node):
        rw.replace(node, rw.call(aten.sigmoid.default, found["x"], at=node))


@rewrite(aten.mul.Tensor, aten.div.Tensor, accuracy="reassociating")
def recognize_activation(node: Node, rw: Rewriter) -> None:
    """x * sigmoid(x)  ->  silu(x), and so for GELU (erf and tanh form), hard-swish, hard-sigmoid and Mish

    Numbers and operands of the product may come in any order. On infinities the result is that of the op, as PyTorch
    defines it; it differs from the formula for GELU in float32, where PyTorch's kernel gives NaN for infinity.
    """
    if is_call(only_user(node), aten.mul.Tensor, aten.div.Tensor) and len(_factors(only_user(node)).nodes) > len(
        _factors(node).nodes
    ):
        return  # part of a larger product, which is looked at as a whole
    product = _factors(node)
    for recognize in (_silu, _gelu, _gelu_tanh, _hardsigmoid, _hardswish, _mish):
        new = recognize(node, rw, product)
        if new is not None and same_type(new, node):
            rw.replace(node, new)
            return


@dataclass
class Product:
    """A product of numbers (multiplied up) and nodes."""

    number: float
    nodes: Counter[Node]

    def other(self, x: Node) -> Node | None:
        """The second of two nodes whose first is `x`."""
        rest = self.nodes - Counter([x])
        return next(iter(rest)) if sum(rest.values()) == 1 and sum(self.nodes.values()) == 2 else None


def _factors(node: Any) -> Product:
    """The factors of a tree of products and quotients by numbers, whose inner nodes nobody else uses."""
    product = Product(1.0, Counter())
    pending: list[Any] = [(node, True)]
    while pending:
        value, is_root = pending.pop()
        if is_number(value):
            product.number *= value
        elif is_call(value, aten.mul.Tensor) and (is_root or _is_private(value)):
            pending += [(operand, False) for operand in value.args]
        elif is_call(value, aten.div.Tensor) and is_number(value.args[1]) and (is_root or _is_private(value)):
            product.number /= value.args[1]
            pending.append((value.args[0], False))
        elif is_call(value, aten.pow.Tensor_Scalar) and value.args[1] in (2, 3) and (is_root or _is_private(value)):
            pending += [(value.args[0], False)] * int(value.args[1])
        else:
            product.nodes[value] += 1
    return product


def _is_private(node: Node) -> bool:
    return len(node.users) == 1


def _near(number: float, expected: float) -> bool:
    return math.isclose(number, expected, rel_tol=TOLERANCE)


def _silu(node: Node, rw: Rewriter, product: Product) -> Node | None:
    for gate in product.nodes:
        if is_call(gate, aten.sigmoid.default) and product.other(gate) is gate.args[0] and product.number == 1:
            return rw.call(aten.silu.default, gate.args[0], at=node)
    return None


def _gelu(node: Node, rw: Rewriter, product: Product) -> Node | None:
    """0.5 * x * (1 + erf(x / sqrt(2)))"""
    for x, inner in _gates(product, aten.erf.default):
        if inner.nodes == Counter([x]) and _near(inner.number, math.sqrt(0.5)):
            return rw.call(aten.gelu.default, x, at=node)
    return None


def _gelu_tanh(node: Node, rw: Rewriter, product: Product) -> Node | None:
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))"""
    for x, inner in _gates(product, aten.tanh.default):
        if _is_tanh_argument(inner, x):
            return rw.call(aten.gelu.default, x, at=node, approximate="tanh")
    return None


def _gates(product: Product, op: Any) -> Iterator[tuple[Node, Product]]:
    """x and the factors of `argument`, for each way to read the product as 0.5 * x * (1 + op(argument))."""
    for one_plus in product.nodes:
        x, gate = product.other(one_plus), _one_plus(one_plus, op)
        if x is not None and gate is not None and _near(product.number, 0.5):
            yield x, _factors(gate.args[0])


def _is_tanh_argument(argument: Product, x: Node) -> bool:
    """sqrt(2 / pi) * (x + 0.044715 * x**3), or sqrt(2 / pi) * x * (1 + 0.044715 * x**2)"""
    if not _near(argument.number, math.sqrt(2 / math.pi)):
        return False
    power = 3 - argument.nodes[x]
    sums = argument.nodes - Counter([x])
    if power not in (2, 3) or sum(sums.values()) != 1:
        return False
    total = next(iter(sums))
    if not is_call(total, aten.add.Tensor) or total.kwargs:
        return False
    first = x if power == 3 else 1
    for small, large in (total.args, total.args[::-1]):
        term = _factors(large)
        if small == first and term.nodes == Counter({x: power}) and _near(term.number, 0.044715):
            return True
    return False


def _one_plus(node: Node, op: Any) -> Node | None:
    """The call of `op` in `1 + op(...)`."""
    if not is_call(node, aten.add.Tensor) or node.kwargs:
        return None
    for number, term in (node.args, node.args[::-1]):
        if is_number(number) and number == 1 and is_call(term, op):
            return term
    return None


def _shifted_relu6(node: Node) -> Node | None:
    """The x of `clamp(x + 3, 0, 6)`."""
    if not is_call(node, aten.clamp.default):
        return None
    a = arguments(node)
    total = a["self"]
    if (a["min"], a["max"]) != (0, 6) or not is_call(total, aten.add.Tensor) or total.kwargs:
        return None
    x, number = total.args
    return x if isinstance(x, Node) and is_number(number) and number == 3 else None


def _hardsigmoid(node: Node, rw: Rewriter, product: Product) -> Node | None:
    """clamp(x + 3, 0, 6) / 6"""
    if sum(product.nodes.values()) != 1 or not _near(product.number, 1 / 6):
        return None
    x = _shifted_relu6(next(iter(product.nodes)))
    return None if x is None else rw.call(aten.hardsigmoid.default, x, at=node)


def _hardswish(node: Node, rw: Rewriter, product: Product) -> Node | None:
    """x * clamp(x + 3, 0, 6) / 6, or x * hardsigmoid(x)"""
    for gate in product.nodes:
        x = gate.args[0] if is_call(gate, aten.hardsigmoid.default) else _shifted_relu6(gate)
        expected = 1 if is_call(gate, aten.hardsigmoid.default) else 1 / 6
        if x is not None and product.other(gate) is x and _near(product.number, expected):
            return rw.call(aten.hardswish.default, x, at=node)
    return None


def _mish(node: Node, rw: Rewriter, product: Product) -> Node | None:
    """x * tanh(softplus(x))"""
    for gate in product.nodes:
        inner = gate.args[0] if is_call(gate, aten.tanh.default) else None
        if not is_call(inner, aten.softplus.default) or product.number != 1:
            continue
        a = arguments(inner)
        if (a["beta"], a["threshold"]) == (1, 20) and product.other(gate) is a["self"]:
            return rw.call(aten.mish.default, a["self"], at=node)
    return None
