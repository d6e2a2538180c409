"""Layers with a float result become integer sums, which the array computes, and their scaling, which the host does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ....ops import fxpress
from ....ops.activation import parse_activation
from ....program import Program
from ....rewriter import Rewriter
from .constants import sums_fit

aten = torch.ops.aten

ACTIVATIONS: dict[str, Any] = {
    "relu": aten.relu.default,
    "relu6": aten.relu6.default,
    "gelu": aten.gelu.default,
    "silu": aten.silu.default,
    "hardswish": aten.hardswish.default,
    "hardsigmoid": aten.hardsigmoid.default,
    "sigmoid": aten.sigmoid.default,
    "tanh": aten.tanh.default,
    "softplus": aten.softplus.default,
    "mish": aten.mish.default,
    "elu": aten.elu.default,
    "leaky_relu": aten.leaky_relu.default,
    "clamp": aten.clamp.default,
}
"""The ops of activations, which take their parameters in order."""


def split_float_layers(program: Program, whole: Collection[str] = ()) -> Program:
    """A copy in which layers with a float result are sums and what scales them, bit for bit the same.

    Nodes named in `whole` stay as they are, and those whose weights are computed or whose sums may leave 32 bits. The
    meta value "float_layer" of a node with sums is the name of the layer.
    """
    program = program.clone()
    rw = Rewriter(program)
    for node in program.nodes:
        rule = _RULES.get(node.target) if node.op == "call_function" and node.name not in whole else None
        result = None if rule is None else rule(node, rw)
        if result is not None:
            rw.replace(node, result)
    rw.finish()
    return program


def _convolution(node: Node, rw: Rewriter) -> Node | None:
    values = arguments(node)
    rest = [values[name] for name in ("x_zero", "stride", "padding", "dilation", "groups", "channels_last")]
    rank = node.meta["val"].dim()
    return _scaled(node, rw, fxpress.conv_sums.default, rest, [1] * (0 if values["channels_last"] else rank - 2))


def _linear(node: Node, rw: Rewriter) -> Node | None:
    return _scaled(node, rw, fxpress.linear_sums.default, [], [])


def _scaled(node: Node, rw: Rewriter, op: Any, rest: list[Any], ones: list[int]) -> Node | None:
    """activation(float32(sums + bias) * scale + residual), where channels are followed by dims of one."""
    values = arguments(node)
    weight, bias, weight_scale = (rw.value(values[name]) for name in ("weight", "bias", "weight_scale"))
    if weight is None or bias is None or weight_scale is None or not sums_fit(weight, bias):
        return None
    sums = rw.call(op, values["x"], values["weight"], *rest, at=node)
    sums.meta["float_layer"] = node.name
    scale = (weight_scale.to(torch.float64) * values["x_scale"]).float()
    shift = rw.constant(f"{values['bias'].target}_sums", bias.reshape(-1, *ones))
    factor = rw.constant(f"{values['weight_scale'].target}_sums", scale.reshape(-1, *ones))
    total = rw.call(aten.add.Tensor, sums, shift, at=node)
    y = rw.call(aten.mul.Tensor, _as_float(total, rw, node), factor, at=node)
    if values["residual"] is not None:
        y = rw.call(aten.add.Tensor, y, values["residual"], at=node)
    name, parameters = parse_activation(values["activation"])
    if name == "none":
        return y
    if name == "gelu_tanh":
        return rw.call(aten.gelu.default, y, at=node, approximate="tanh")
    return rw.call(ACTIVATIONS[name], y, *parameters, at=node)


def _matmul(node: Node, rw: Rewriter) -> Node:
    values = arguments(node)
    operands = [values[name] for name in ("a", "b", "a_zero", "b_zero")]
    sums = rw.call(fxpress.matmul_sums.default, *operands, at=node)
    sums.meta["float_layer"] = node.name
    factor = torch.tensor([values["a_scale"]], dtype=torch.float64) * values["b_scale"]
    return rw.call(aten.mul.Tensor, _as_float(sums, rw, node), rw.constant("product_scale", factor.float()), at=node)


def _as_float(x: Node, rw: Rewriter, at: Node) -> Node:
    return rw.call(aten._to_copy.default, x, at=at, dtype=torch.float32)


_RULES = {
    fxpress.quantized_conv_float.default: _convolution,
    fxpress.quantized_linear_float.default: _linear,
    fxpress.quantized_matmul_float.default: _matmul,
}
