"""Float ops as ONNX, and ops that move values of any type."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from ..ops import fxpress
from ..ops.activation import parse_activation
from .onnx_graph import TYPES, Export, Graph

aten = torch.ops.aten

Values = dict[str, Any]
END = 2**63 - 1


def activation(g: Graph, x: str, text: str) -> str:
    """The activation that an epilogue names."""
    name, parameters = parse_activation(text)
    return ACTIVATIONS[name](g, x, *parameters)


def _clip(g: Graph, x: str, low: Any, high: Any) -> str:
    limits = ["" if limit is None else g.constant(limit) for limit in (low, high)]
    return str(g.op("Clip", x, *limits))


ACTIVATIONS: dict[str, Callable[..., str]] = {
    "none": lambda g, x: x,
    "relu": lambda g, x: g.op("Relu", x),
    "relu6": lambda g, x: _clip(g, x, 0.0, 6.0),
    "clamp": _clip,
    "gelu": lambda g, x: g.op("Gelu", x),
    "gelu_tanh": lambda g, x: g.op("Gelu", x, approximate="tanh"),
    "silu": lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
    "hardswish": lambda g, x: g.op("HardSwish", x),
    "hardsigmoid": lambda g, x: g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "sigmoid": lambda g, x: g.op("Sigmoid", x),
    "tanh": lambda g, x: g.op("Tanh", x),
    "softplus": lambda g, x: g.op("Softplus", x),
    "mish": lambda g, x: g.op("Mish", x),
    "elu": lambda g, x, alpha: g.op("Elu", x, alpha=alpha),
    "leaky_relu": lambda g, x, slope: g.op("LeakyRelu", x, alpha=slope),
}


def conv(g: Graph, x: str, weight: str, bias: str | None, a: Values) -> str:
    """A convolution of channels-first `x`."""
    pads = list(a["padding"])
    y = g.op(
        "Conv", *(x, weight, *([bias] if bias is not None else [])),
        strides=list(a["stride"]), pads=pads[::2] + pads[1::2], dilations=list(a["dilation"]), group=a["groups"],
    )  # fmt: skip
    return str(y)


def window(a: Values) -> dict[str, Any]:
    """The attributes of a pool."""
    return {
        "kernel_shape": list(a["kernel"]), "strides": list(a["stride"]), "pads": list(a["padding"]) * 2,
        "ceil_mode": int(a["ceil_mode"]),
    }  # fmt: skip


def pool(g: Graph, kind: str, x: str, a: Values, **attributes: Any) -> str:
    """A pool of channels-first `x`."""
    return str(g.op(kind, x, **window(a), **attributes))


def _conv(g: Graph, node: Node, a: Values) -> None:
    last = a["channels_last"]
    bias = None if a["bias"] is None else g.name(a["bias"])
    y = conv(g, g.first(a["x"], last), g.name(a["weight"]), bias, a)
    if a["residual"] is not None:
        y = g.op("Add", y, g.first(a["residual"], last))
    g.set_first(node, activation(g, y, a["activation"]), last)


def _linear(g: Graph, node: Node, a: Values) -> None:
    weight = g.tensor(a["weight"])
    assert weight is not None
    y = g.op("MatMul", g.name(a["x"]), g.constant(weight.T, name="weight"))
    for name in ("bias", "residual"):
        if a[name] is not None:
            y = g.op("Add", y, g.name(a[name]))
    g.set(node, activation(g, y, a["activation"]))


def _max_pool(g: Graph, node: Node, a: Values) -> None:
    y = pool(g, "MaxPool", g.first(a["x"], a["channels_last"]), a, dilations=list(a["dilation"]))
    g.set_first(node, y, a["channels_last"])


def _avg_pool(g: Graph, node: Node, a: Values) -> None:
    y = pool(
        g, "AveragePool", g.first(a["x"], a["channels_last"]), a, count_include_pad=int(a["count_include_pad"])
    )  # fmt: skip
    g.set_first(node, y, a["channels_last"])


def _adaptive_avg_pool(g: Graph, node: Node, a: Values) -> None:
    last = a["channels_last"]
    sizes = _spatial(a)
    kernel = [size // wanted for size, wanted in zip(sizes, a["size"], strict=True)]
    y = g.op("AveragePool", g.first(a["x"], last), kernel_shape=kernel, strides=kernel)
    g.set_first(node, y, last)


def _spatial(a: Values) -> list[int]:
    shape = list(a["x"].meta["val"].shape)
    return shape[1:-1] if a["channels_last"] else shape[2:]


def _resize(g: Graph, node: Node, a: Values) -> None:
    last, x = a["channels_last"], a["x"].meta["val"]
    sizes = g.shape([x.shape[0], x.shape[-1] if last else x.shape[1], *a["size"]])
    inputs = (g.first(a["x"], last), "", "", sizes)
    if a["mode"] == "nearest":
        y = g.op("Resize", *inputs, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    else:
        mapping = "align_corners" if a["align_corners"] else "half_pixel"
        y = g.op("Resize", *inputs, mode="linear", coordinate_transformation_mode=mapping)
    g.set_first(node, y, last)


def _pointwise(kind: str, *names: str) -> Export:
    """An elementwise op of the arguments `names`."""
    return lambda g, node, a: g.pointwise(node, [a[name] for name in names], lambda *inputs: str(g.op(kind, *inputs)))


def _matmul(*names: str) -> Export:
    return lambda g, node, a: g.set(node, g.op("MatMul", *(g.name(a[name]) for name in names)))


def _scaled(kind: str) -> Export:
    """x + alpha * y and x - alpha * y."""

    def export(g: Graph, node: Node, a: Values) -> None:
        def make(x: str, other: str) -> str:
            return str(g.op(kind, x, other if a["alpha"] == 1 else g.op("Mul", other, g.constant(a["alpha"]))))

        g.pointwise(node, [a["self"], a["other"]], make)

    return export


def _activation(name: str) -> Export:
    return lambda g, node, a: g.pointwise(node, [a["self"]], lambda x: activation(g, x, name))


def _clamp(g: Graph, node: Node, a: Values) -> None:
    limits = a.get("min", a.get("min_val")), a.get("max", a.get("max_val"))
    g.pointwise(node, [a["self"]], lambda x: _clip(g, x, *limits))


def _softmax(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Softmax", g.name(a["self"]), axis=a["dim"]))


def _layer_norm(g: Graph, node: Node, a: Values) -> None:
    shape = list(a["normalized_shape"])
    weight = g.name(a["weight"]) if a["weight"] is not None else g.constant(np.ones(shape))
    names = [weight] if a["bias"] is None else [weight, g.name(a["bias"])]
    g.set(node, g.op("LayerNormalization", g.name(a["input"]), *names, axis=-len(shape), epsilon=a["eps"]))


def _embedding(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Gather", g.name(a["weight"]), g.name(a["indices"])))


def _attention(g: Graph, node: Node, a: Values) -> None:
    query, key, value = (g.name(a[name]) for name in ("query", "key", "value"))
    rank, depth = node.meta["val"].dim(), a["query"].meta["val"].shape[-1]
    key = g.op("Transpose", key, perm=[*range(rank - 2), rank - 1, rank - 2])
    scale = depth**-0.5 if a["scale"] is None else a["scale"]
    scores = g.op("Mul", g.op("MatMul", query, key), g.constant(scale))
    mask = a["attn_mask"]
    if mask is not None:
        fill = a.get("fill", None if mask.meta["val"].dtype != torch.bool else -np.inf)
        if fill is None:
            scores = g.op("Add", scores, g.name(mask))
        else:
            scores = g.op("Where", g.name(mask), scores, g.constant(fill))
    if a.get("is_causal"):
        seen = np.tril(np.ones([a[name].meta["val"].shape[-2] for name in ("query", "key")], bool))
        scores = g.op("Where", g.constant(seen, bool), scores, g.constant(-np.inf))
    g.set(node, g.op("MatMul", g.op("Softmax", scores, axis=-1), value))


def _mean(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("ReduceMean", g.name(a["self"]), g.shape(a["dim"]), keepdims=int(a["keepdim"])))


def _sum(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("ReduceSum", g.name(a["self"]), g.shape(a["dim"]), keepdims=int(a["keepdim"])))


def _norm(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("ReduceL2", g.name(a["self"]), g.shape(a["dim"]), keepdims=int(a["keepdim"])))


def _index(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Gather", g.name(a["self"]), g.name(a["indices"][0])))


def _not_equal(g: Graph, node: Node, a: Values) -> None:
    g.pointwise(node, [a["self"], a["other"]], lambda x, y: str(g.op("Not", g.op("Equal", x, y))))


def _reshape(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Reshape", g.name(a["self"]), g.shape(node.meta["val"].shape)))


def _permute(g: Graph, node: Node, a: Values) -> None:
    rank = node.meta["val"].dim()
    order = [dim % rank for dim in a["dims"]]
    if order == [0, *range(2, rank), 1]:
        g.set_first(node, g.name(a["self"]))  # to channels-last: what it is already is the channels-first form
    elif order == [0, rank - 1, *range(1, rank - 1)]:
        g.set(node, g.first(a["self"]))
    else:
        g.set(node, g.op("Transpose", g.name(a["self"]), perm=order))


def _slice(g: Graph, node: Node, a: Values) -> None:
    start, end = (0 if a["start"] is None else a["start"]), (END if a["end"] is None else a["end"])
    g.set(node, g.op("Slice", g.name(a["self"]), *map(g.shape, ([start], [end], [a["dim"]], [a["step"]]))))


def _select(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Gather", g.name(a["self"]), g.constant(a["index"], np.int64), axis=a["dim"]))


def _expand(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Expand", g.name(a["self"]), g.shape(node.meta["val"].shape)))


def _cat(g: Graph, node: Node, a: Values) -> None:
    tensors = [x for x in a["tensors"] if x.meta["val"].numel()]  # aten ignores empty ones of whatever rank
    g.set(node, g.op("Concat", *map(g.name, tensors or a["tensors"]), axis=a["dim"]))


def _split(g: Graph, node: Node, a: Values) -> None:
    """Split into sizes; the parts are named when a getitem asks for them."""
    dim = a.get("dim", 0)
    sizes = (
        [x.shape[dim] for x in node.meta["val"]] if node.target is not aten.unbind.int else [1] * len(node.meta["val"])
    )
    parts = g.op("Split", g.name(a["self"]), g.shape(sizes), axis=dim, outputs=len(sizes))
    if node.target is aten.unbind.int:
        parts = [g.op("Squeeze", part, g.shape([dim])) for part in parts]
    for user in node.users:
        if user.target is operator.getitem:
            g.set(user, parts[user.args[1]])


def _pad(g: Graph, node: Node, a: Values) -> None:
    pads, rank = a["pad"], node.meta["val"].dim()
    before, after = [0] * rank, [0] * rank
    for index in range(len(pads) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = pads[2 * index], pads[2 * index + 1]
    dtype = np.int8 if node.meta["val"].dtype == torch.int8 else np.float32
    g.set(node, g.op("Pad", g.name(a["self"]), g.shape([*before, *after]), g.constant(a["value"], dtype)))


def _cast(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Cast", g.name(a["self"]), to=TYPES[a["dtype"]]))


def _where(g: Graph, node: Node, a: Values) -> None:
    g.set(node, g.op("Where", *(g.name(a[name]) for name in ("condition", "self", "other"))))


FLOAT: dict[Any, Export] = {
    fxpress.conv.default: _conv,
    fxpress.linear.default: _linear,
    fxpress.max_pool.default: _max_pool,
    fxpress.avg_pool.default: _avg_pool,
    fxpress.adaptive_avg_pool.default: _adaptive_avg_pool,
    fxpress.resize.default: _resize,
    fxpress.attention.default: _attention,
    aten.scaled_dot_product_attention.default: _attention,
    aten.add.Tensor: _scaled("Add"),
    aten.sub.Tensor: _scaled("Sub"),
    aten.mul.Tensor: _pointwise("Mul", "self", "other"),
    aten.div.Tensor: _pointwise("Div", "self", "other"),
    aten.matmul.default: _matmul("self", "other"),
    aten.bmm.default: _matmul("self", "mat2"),
    aten.gt.Scalar: _pointwise("Greater", "self", "other"),
    aten.ge.Scalar: _pointwise("GreaterOrEqual", "self", "other"),
    aten.lt.Scalar: _pointwise("Less", "self", "other"),
    aten.le.Scalar: _pointwise("LessOrEqual", "self", "other"),
    aten.eq.Scalar: _pointwise("Equal", "self", "other"),
    aten.ne.Scalar: _not_equal,
    aten.index.Tensor: _index,
    aten.sum.dim_IntList: _sum,
    aten.linalg_vector_norm.default: _norm,
    aten.neg.default: _pointwise("Neg", "self"),
    aten.exp.default: _pointwise("Exp", "self"),
    aten.sqrt.default: _pointwise("Sqrt", "self"),
    aten.abs.default: _pointwise("Abs", "self"),
    aten.relu.default: _activation("relu"),
    aten.relu6.default: _activation("relu6"),
    aten.sigmoid.default: _activation("sigmoid"),
    aten.tanh.default: _activation("tanh"),
    aten.silu.default: _activation("silu"),
    aten.hardswish.default: _activation("hardswish"),
    aten.hardsigmoid.default: _activation("hardsigmoid"),
    aten.gelu.default: lambda g, n, a: _activation("gelu_tanh" if a["approximate"] == "tanh" else "gelu")(g, n, a),
    aten.clamp.default: _clamp,
    aten.hardtanh.default: _clamp,
    aten.softmax.int: _softmax,
    aten.layer_norm.default: _layer_norm,
    aten.embedding.default: _embedding,
    aten.mean.dim: _mean,
    aten.reshape.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.expand.default: _expand,
    aten.cat.default: _cat,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.chunk.default: _split,
    aten.unbind.int: _split,
    operator.getitem: lambda g, n, a: None,
    aten.constant_pad_nd.default: _pad,
    aten._to_copy.default: _cast,
    aten.where.self: _where,
}


def why_pool(a: Values) -> str | None:
    """Why an average pool cannot be exported."""
    return "it has a divisor of its own" if a["divisor"] is not None else None


def why_index(a: Values) -> str | None:
    """Why an indexing cannot be exported."""
    return "it has other than one index, the first" if len(a["indices"]) != 1 or a["indices"][0] is None else None


def why_norm(a: Values) -> str | None:
    """Why a norm cannot be exported."""
    return None if a["ord"] == 2 and a["dim"] else f"it is of order {a['ord']}, or over all dims"


def why_sum(a: Values) -> str | None:
    """Why a sum cannot be exported."""
    return (
        None
        if a["dim"] and a["dtype"] in (None, a["self"].meta["val"].dtype)
        else "it changes the type, or is over all"
    )


def why_adaptive(a: Values) -> str | None:
    """Why an adaptive pool cannot be exported."""
    uneven = any(size % wanted for size, wanted in zip(_spatial(a), a["size"], strict=True))
    return "its windows differ in size" if uneven else None


def why_resize(a: Values) -> str | None:
    """Why a resize cannot be exported."""
    if a["scales"] is not None:
        return "its coordinates are scaled by given factors"
    return None if a["mode"] in ("nearest", "linear", "bilinear", "trilinear") else f"its mode is {a['mode']}"


def why_attention(a: Values) -> str | None:
    """Why an attention cannot be exported."""
    return "it has fewer heads of keys" if a["enable_gqa"] else None


def why_cast(a: Values) -> str | None:
    """Why a cast cannot be exported."""
    return None if a["dtype"] in TYPES else f"ONNX files of ours have no {a['dtype']}"
