"""scaling and shifting by constants around a convolution or linear layer  ->  its constants"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, is_constant, is_number, same_type, shape
from .channels import PRODUCERS, channel_vector, is_plain, with_affine

aten = torch.ops.aten


@rewrite(aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor, accuracy="reassociating")
def fold_affine(node: Node, rw: Rewriter) -> None:
    """conv(x, w, b) * s + t  ->  conv(x, w * s, b * s + t), with s and t constant per channel; linear likewise"""
    producer, operand = _split(node)
    if producer is None or list(producer.users) != [node] or not same_type(producer, node) or node.kwargs:
        return
    value = _vector(rw, operand, producer)
    if value is None:
        return
    affine: dict[Any, tuple[Tensor | None, Tensor | None]] = {
        aten.mul.Tensor: (value, None),
        aten.div.Tensor: (1 / value, None),
        aten.add.Tensor: (None, value),
        aten.sub.Tensor: (None, -value),
    }
    rw.replace(node, with_affine(producer, rw, node, *affine[node.target]))


def _split(node: Node) -> tuple[Node | None, Any]:
    """The plain producer among the operands, and the other operand."""
    first, second = node.args[:2]
    if is_plain(first):
        return first, second
    if is_plain(second) and node.target in (aten.mul.Tensor, aten.add.Tensor):
        return second, first
    return None, None


def _vector(rw: Rewriter, operand: Any, producer: Node) -> Tensor | None:
    if is_number(operand):
        operand_value = torch.tensor(float(operand), dtype=torch.float64)
    elif is_constant(operand):
        operand_value = rw.program.constant(operand).double()
    else:
        return None
    return channel_vector(operand_value, producer)


@rewrite(fxpress.conv.default, fxpress.linear.default, accuracy="reassociating")
def fold_scale_before(node: Node, rw: Rewriter) -> None:
    """linear(x * s, w)  ->  linear(x, w * s), with s a number or constant per input channel; conv likewise

    Taken when every user of the product is such a layer, so that the product vanishes.
    """
    a = arguments(node)
    product: Node = a["x"]
    if product.op != "call_function" or product.target not in (aten.mul.Tensor, aten.div.Tensor):
        return
    x, operand = product.args
    if not isinstance(x, Node) or not same_type(x, product) or not is_constant(a["weight"]):
        return
    if not all(user.target in PRODUCERS and _takes_only_as_x(user, product) for user in product.users):
        return
    scale = _input_scale(node, rw, a, operand)
    if scale is None:
        return
    weight = rw.program.constant(a["weight"])
    if product.target is aten.div.Tensor:
        scale = 1 / scale
    scaled = (weight.double() * scale).to(weight.dtype)
    changes = {"x": x, "weight": rw.constant(f"{a['weight'].target}_scaled", scaled)}
    rw.replace(node, rw.call(node.target, *(a | changes).values(), at=node))


def _takes_only_as_x(user: Node, product: Node) -> bool:
    a = arguments(user)
    rest = [value for name, value in a.items() if name != "x"]
    return user.target is not fxpress.conv_transpose.default and a["x"] is product and product not in rest


def _input_scale(node: Node, rw: Rewriter, a: dict[str, Any], operand: Any) -> Tensor | None:
    """The constant to multiply the weight [oc, ic/groups, ...] or [n, k] by."""
    if is_number(operand):
        return torch.tensor(float(operand), dtype=torch.float64)
    value = rw.value(operand)
    if value is None:
        return None
    value = value.double()
    if value.numel() == 1:
        return value.reshape(())
    is_last = node.target is fxpress.linear.default or a["channels_last"]
    dim = -1 if is_last else 1 - len(shape(a["x"]))  # counted from the end, as broadcasting does
    sizes = tuple(value.shape)
    if len(sizes) < -dim or sizes[dim] != value.numel() or a.get("groups", 1) != 1:
        return None
    return value.reshape(-1, *[1] * (len(shape(a["weight"])) - 2))
