"""Quantised ops as ONNX: the float op between DequantizeLinear and QuantizeLinear, with integer weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.fx import Node

from ..ops import WEIGHT_STEPS, fxpress
from .onnx_float import activation, conv, pool, window
from .onnx_graph import BLOCKS_OPSET, Export, Graph

Values = dict[str, Any]


def _scales(a: Values) -> tuple[float, int, int, int]:
    return a["y_scale"], a["y_zero"], a["low"], a["high"]


def _weight(g: Graph, a: Values) -> str:
    """The weight as int8 with a scale for each output channel, dequantised."""
    integers, scale = _tensor(g, a["weight"]), _tensor(g, a["weight_scale"])
    zeros = torch.zeros(len(scale), dtype=torch.int8)
    names = (g.constant(integers, name="weight"), g.constant(scale, name="scale"), g.constant(zeros, name="zero"))
    return str(g.op("DequantizeLinear", *names, axis=0))


def _bias(g: Graph, a: Values) -> str:
    """The bias without the zero point that is folded into it, int32 in steps of x_scale * weight_scale, dequantised."""
    integers, scale = _tensor(g, a["weight"]), _tensor(g, a["weight_scale"])
    whole = _tensor(g, a["bias"]).long() + a["x_zero"] * integers.long().flatten(1).sum(1)
    names = (g.constant(whole.to(torch.int32), name="bias"), g.constant((scale.double() * a["x_scale"]).float()))
    return str(g.op("DequantizeLinear", *names, axis=0))


def _tensor(g: Graph, node: Any) -> Tensor:
    tensor = g.tensor(node)
    assert tensor is not None
    return tensor


def _quantized_conv(g: Graph, node: Node, a: Values) -> None:
    last = a["channels_last"]
    x = g.dequantize(g.first(a["x"], last), a["x_scale"], a["x_zero"])
    y = conv(g, x, _weight(g, a), _bias(g, a), a)
    is_float = "activation" in a
    if a["residual"] is not None:
        residual = g.first(a["residual"], last)
        if not is_float:
            residual = g.dequantize(residual, a["residual_scale"], a["residual_zero"])
        y = g.op("Add", y, residual)
    y = activation(g, y, a["activation"]) if is_float else g.quantize(y, *_scales(a))
    g.set_first(node, y, last)


def _quantized_linear(g: Graph, node: Node, a: Values) -> None:
    """As a Gemm of matrices: ONNX Runtime makes that of a product and a sum itself, but not right between Q and DQ."""
    x, shape = g.name(a["x"]), list(node.meta["val"].shape)
    is_float, is_matrix, residual = "activation" in a, len(shape) == 2, a["residual"]
    if not is_matrix:
        x = g.op("Reshape", x, g.shape([-1, a["x"].meta["val"].shape[-1]]))
    y = g.op("Gemm", g.dequantize(x, a["x_scale"], a["x_zero"]), _weight(g, a), _bias(g, a), transB=1)
    if residual is None and not is_float:
        y = g.quantize(y, *_scales(a))
    if not is_matrix:
        y = g.op("Reshape", y, g.shape(shape))
    if residual is not None:
        other = g.name(residual)
        y = g.op("Add", y, other if is_float else g.dequantize(other, a["residual_scale"], a["residual_zero"]))
        if not is_float:
            y = g.quantize(y, *_scales(a))
    g.set(node, activation(g, y, a["activation"]) if is_float else y)


def _matmul(g: Graph, node: Node, a: Values) -> None:
    first = g.dequantize(g.name(a["a"]), a["a_scale"], a["a_zero"])
    y = g.op("MatMul", first, g.dequantize(g.name(a["b"]), a["b_scale"], a["b_zero"]))
    g.set(node, g.quantize(y, *_scales(a)) if "y_scale" in a else y)


def _add(g: Graph, node: Node, a: Values) -> None:
    def make(first: str, second: str) -> str:
        operands = (g.dequantize(first, a["a_scale"], a["a_zero"]), g.dequantize(second, a["b_scale"], a["b_zero"]))
        return g.quantize(g.op("Add", *operands), *_scales(a))

    g.pointwise(node, [a["a"], a["b"]], make)


def _avg_pool(g: Graph, node: Node, a: Values) -> None:
    last = a["channels_last"]
    x = g.dequantize(g.first(a["x"], last), a["x_scale"], a["x_zero"])
    y = pool(g, "AveragePool", x, a, count_include_pad=1)
    g.set_first(node, g.quantize(y, *_scales(a)), last)


def _max_pool(g: Graph, node: Node, a: Values) -> None:
    last = a["channels_last"]
    y = g.op("MaxPool", g.first(a["x"], last), **window(a), dilations=list(a["dilation"]))
    g.set_first(node, y, last)


def _quantize(g: Graph, node: Node, a: Values) -> None:
    g.pointwise(node, [a["x"]], lambda x: g.quantize(x, a["scale"], a["zero_point"]))


def _dequantize(g: Graph, node: Node, a: Values) -> None:
    g.pointwise(node, [a["x"]], lambda x: g.dequantize(x, a["scale"], a["zero_point"]))


def _requantize(g: Graph, node: Node, a: Values) -> None:
    g.pointwise(node, [a["x"]], lambda x: g.quantize(g.dequantize(x, a["x_scale"], a["x_zero"]), *_scales(a)))


def _lookup(g: Graph, node: Node, a: Values) -> None:
    def make(x: str) -> str:
        index = g.op("Add", g.op("Cast", x, to=TensorProto.INT32), g.constant(128, np.int32))
        return str(g.op("Gather", g.name(a["table"]), index))

    g.pointwise(node, [a["x"]], make)


def _embedding(g: Graph, node: Node, a: Values) -> None:
    indices = g.name(a["indices"])
    rows = g.op("Cast", g.op("Gather", g.name(a["weight"]), indices), to=TensorProto.FLOAT)
    scale = g.constant(_tensor(g, a["scale"]).unsqueeze(1), name="scale")
    g.set(node, g.op("Mul", rows, g.op("Gather", scale, indices)))


def _dynamic_linear(g: Graph, node: Node, a: Values) -> None:
    """Each row by its own largest number, as the op's definition says; DynamicQuantizeLinear has one scale for all."""
    x = g.name(a["x"])
    largest = g.op("ReduceMax", g.op("Abs", x), g.shape([-1]), keepdims=1)
    inverse = g.op("Div", g.constant(127.0), largest)
    empty, one = g.op("IsInf", inverse), g.constant(1.0)
    integers = g.op("Round", g.op("Mul", x, g.op("Where", empty, one, inverse)))
    weight = g.op("Cast", g.constant(_tensor(g, a["weight"]).T, name="weight"), to=TensorProto.FLOAT)
    scale = g.op("Where", empty, one, g.op("Div", largest, g.constant(127.0)))
    scale = g.op("Mul", scale, g.name(a["weight_scale"]))
    _finish(g, node, a, g.op("Mul", g.op("MatMul", integers, weight), scale))


def _weight_only_linear(g: Graph, node: Node, a: Values) -> None:
    stored, scale = _tensor(g, a["weight"]), _tensor(g, a["weight_scale"])
    depth = a["x"].meta["val"].shape[-1]
    attributes = {"axis": 1, "block_size": a["group"]}
    if a["bits"] == 8 and a["group"] >= depth:
        attributes, scale = {"axis": 0}, scale[:, 0]
    else:
        g.opset = BLOCKS_OPSET
    if a["bits"] == 8:
        weight = g.constant(stored, name="weight")
        zeros = g.constant(torch.zeros(scale.shape, dtype=torch.int8), name="zero")
    else:
        zero = torch.full(scale.shape, 8) if a["weight_zero"] is None else _tensor(g, a["weight_zero"])
        weight = _four_bits(g, "weight", stored, (len(stored), depth))
        zeros = _four_bits(g, "zero", _halves(zero), tuple(zero.shape))
    weight = g.op("DequantizeLinear", weight, g.constant(scale, name="scale"), zeros, **attributes)
    _finish(g, node, a, g.op("MatMul", g.name(a["x"]), g.op("Transpose", weight, perm=[1, 0])))


def _halves(values: Tensor) -> Tensor:
    """Numbers of 4 bits, two a byte, the first in the low half."""
    flat = torch.nn.functional.pad(values.flatten().to(torch.uint8), (0, values.numel() % 2))
    return flat[::2] | flat[1::2] << 4


def _four_bits(g: Graph, name: str, packed: Tensor, shape: tuple[int, ...]) -> str:
    unique = f"{name}_of_4_bits_{len(g.initializers)}"
    return g.packed(
        helper.make_tensor(unique, TensorProto.UINT4, shape, packed.contiguous().numpy().tobytes(), raw=True)
    )


def _finish(g: Graph, node: Node, a: Values, y: str) -> None:
    """Bias, residual and activation of a layer with a float32 result."""
    for name in ("bias", "residual"):
        if a[name] is not None:
            y = g.op("Add", y, g.name(a[name]))
    g.set(node, activation(g, y, a["activation"]))


def _codebook(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Gather", g.name(a["values"]), g.op("Cast", g.name(a["indices"]), to=TensorProto.INT32)))


def _attention(g: Graph, node: Node, a: Values) -> None:
    rank = node.meta["val"].dim()
    query = g.dequantize(g.name(a["query"]), a["query_scale"], 0)
    key = g.dequantize(g.name(a["key"]), a["key_scale"], a["key_zero"])
    value = g.dequantize(g.name(a["value"]), a["value_scale"], a["value_zero"])
    key = g.op("Transpose", key, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = g.op("Mul", g.op("MatMul", query, key), g.constant(a["scale"]))
    if a["attn_mask"] is not None:
        scores = g.op("Add", scores, g.name(a["attn_mask"]))
    last = g.shape([-1])
    weights = g.op("Exp", g.op("Sub", scores, g.op("ReduceMax", scores, last, keepdims=1)))
    weights = g.op("Round", g.op("Mul", weights, g.constant(float(WEIGHT_STEPS))))
    y = g.op("Div", g.op("MatMul", weights, value), g.op("ReduceSum", weights, last, keepdims=1))
    g.set(node, g.quantize(y, a["y_scale"], a["y_zero"]))


def why_computed(a: Values) -> str | None:
    """Why a layer whose weights are not constants cannot be exported."""
    for name in ("weight", "weight_scale", "bias", "scale", "weight_zero"):
        if isinstance(a.get(name), Node) and a[name].op != "get_attr":
            return f"its {name} is computed"
    return None


def why_attention(a: Values) -> str | None:
    """Why an attention cannot be exported."""
    if a["is_causal"] or a["enable_gqa"]:
        return "it is causal, or has fewer heads of keys"
    mask = a["attn_mask"]
    return "its mask is bool" if mask is not None and mask.meta["val"].dtype == torch.bool else None


def why_weight_only(a: Values) -> str | None:
    """Why a linear layer with stored weights cannot be exported."""
    return (
        "its rows have an odd number of 4-bit weights" if a["bits"] == 4 and a["x"].meta["val"].shape[-1] % 2 else None
    )


QUANTIZED: dict[Any, Export] = {
    fxpress.quantize.default: _quantize,
    fxpress.dequantize.default: _dequantize,
    fxpress.requantize.default: _requantize,
    fxpress.lookup.default: _lookup,
    fxpress.quantized_conv.default: _quantized_conv,
    fxpress.quantized_conv_float.default: _quantized_conv,
    fxpress.quantized_linear.default: _quantized_linear,
    fxpress.quantized_linear_float.default: _quantized_linear,
    fxpress.quantized_matmul.default: _matmul,
    fxpress.quantized_matmul_float.default: _matmul,
    fxpress.quantized_add.default: _add,
    fxpress.quantized_avg_pool.default: _avg_pool,
    fxpress.quantized_max_pool.default: _max_pool,
    fxpress.quantized_embedding.default: _embedding,
    fxpress.quantized_attention.default: _attention,
    fxpress.dynamic_linear.default: _dynamic_linear,
    fxpress.weight_only_linear.default: _weight_only_linear,
    fxpress.codebook.default: _codebook,
}
