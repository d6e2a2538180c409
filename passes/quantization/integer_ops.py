"""Which ops have integer forms, as data, and what a node must be like to take its form."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch.fx import Node

from ...ops import fxpress
from ...ops.activation import parse_activation
from ..fusion.fuse_epilogue import activation_name
from ..match import arguments, dtype, is_constant, is_static, shape

aten = torch.ops.aten

Role = Literal["layer", "matmul", "attention", "add", "average", "maximum", "move", "table", "embedding"]
CLAMPS = ("none", "relu", "relu6", "clamp")
"""Activations that an integer op has inside, as the lowest and highest integer; others become a table."""


@dataclass(frozen=True)
class IntegerOp:
    """The integer form of an op.

    `operands` are the arguments (by name, a list counts as its elements) that are int8 values; `constants` must be
    constant. `granularity` says for what its weights may have a scale of their own. How it becomes integer is its role:
    a "layer" and a "matmul" always take integers, and give integers or float32; an "add", an "average" and a "table"
    take and give integers, each with its own scale; so does an "attention", whose query has the zero point 0; a
    "maximum" and a "move" leave integers as they are, so all have one scale; an "embedding" has int8 rows and gives
    float32. Those of `centered` must have the zero point 0; `same_shapes` are operands that do not broadcast.
    """

    role: Role
    operands: tuple[str, ...]
    constants: tuple[str, ...] = ()
    granularity: tuple[str, ...] = ()
    centered: tuple[str, ...] = ()
    same_shapes: bool = False

    @property
    def keeps_scale(self) -> bool:
        """Whether integers come out as they went in."""
        return self.role in ("maximum", "move")

    @property
    def always_integer(self) -> bool:
        """Whether the op computes with integers even where its result is float32."""
        return self.role in ("layer", "matmul")


_BOTH = ("tensor", "channel")
_TABLES = (
    aten.relu.default, aten.relu6.default, aten.clamp.default, aten.hardtanh.default, aten.sigmoid.default,
    aten.tanh.default, aten.silu.default, aten.gelu.default, aten.hardswish.default, aten.hardsigmoid.default,
    aten.mish.default, aten.elu.default, aten.leaky_relu.default, aten.softplus.default,
)  # fmt: skip
_MOVES = (
    aten.reshape.default, aten.permute.default, aten.slice.Tensor, aten.select.int, aten.expand.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.split.Tensor, aten.split_with_sizes.default,
    aten.chunk.default, aten.unbind.int,
)  # fmt: skip

CPU: dict[Any, IntegerOp] = {
    fxpress.conv.default: IntegerOp("layer", ("x",), ("weight", "bias"), _BOTH),
    fxpress.linear.default: IntegerOp("layer", ("x",), ("weight", "bias"), _BOTH),
    aten.matmul.default: IntegerOp("matmul", ("self", "other")),
    aten.bmm.default: IntegerOp("matmul", ("self", "mat2")),
    aten.scaled_dot_product_attention.default: IntegerOp("attention", ("query", "key", "value"), centered=("query",)),
    aten.add.Tensor: IntegerOp("add", ("self", "other")),
    fxpress.avg_pool.default: IntegerOp("average", ("x",)),
    fxpress.adaptive_avg_pool.default: IntegerOp("average", ("x",)),
    aten.mean.dim: IntegerOp("average", ("self",)),
    fxpress.max_pool.default: IntegerOp("maximum", ("x",)),
    aten.cat.default: IntegerOp("move", ("tensors",)),
    operator.getitem: IntegerOp("move", ("self",)),
    aten.embedding.default: IntegerOp("embedding", (), ("weight",), ("row",)),
    **dict.fromkeys(_MOVES, IntegerOp("move", ("self",))),
    **dict.fromkeys(_TABLES, IntegerOp("table", ("self",))),
}

ROLES: Mapping[Any, str] = {op: form.role for op, form in CPU.items()}
"""How each op becomes integer, wherever it does."""


def values_of(node: Node) -> dict[str, Any]:
    """The node's arguments by name, also of a getitem."""
    if node.target is operator.getitem:
        return {"self": node.args[0], "index": node.args[1]}
    return arguments(node)


def operands_of(node: Node, op: IntegerOp) -> list[Any]:
    """The arguments that the op's integer form takes as int8 values."""
    values = values_of(node)
    operands: list[Any] = []
    for name in op.operands:
        operands += values[name] if isinstance(values[name], list | tuple) else [values[name]]
    return operands


def centered_operands(node: Node, op: IntegerOp) -> list[Node]:
    """The operands whose zero point must be 0."""
    values = values_of(node)
    return [values[name] for name in op.centered]


def why_float(node: Node, op: IntegerOp) -> str | None:
    """Why a node cannot take its op's integer form; None when it can."""
    values = values_of(node)
    for name in op.constants:
        if not is_constant(values[name]) and not (values[name] is None and name == "bias"):
            return f"its {name} is computed"
    for operand in operands_of(node, op):
        if not isinstance(operand, Node) or is_constant(operand):
            return "an operand is constant"
        if not _is_float32(operand):
            return f"an operand is {_type(operand)}, not float32"
    if op.same_shapes and len({shape(operand) for operand in operands_of(node, op)}) > 1:
        return "its operands differ in shape"
    if not _is_float32(node):
        return f"its result is {_type(node)}, not float32"
    check = _CHECKS.get(op.role)
    return check(node, values) if check is not None else None


def activation_of(node: Node) -> str:
    """The activation that a layer applies last, or that a table stands for."""
    values = values_of(node)
    if "activation" in values:
        return str(values["activation"])
    return activation_name(node) or "none"


def has_table(node: Node) -> bool:
    """Whether a layer's activation needs a table."""
    return "activation" in values_of(node) and parse_activation(activation_of(node))[0] not in CLAMPS


@dataclass(frozen=True)
class Window:
    """The windows that an average pool divides by their size."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    ceil_mode: bool
    channels_last: bool


def window_of(node: Node) -> Window | None:
    """The windows of an average pool, an adaptive one, or a mean over all spatial dims; None for other means."""
    values = values_of(node)
    if node.target is aten.mean.dim:
        return _mean_window(values)
    x = shape(values["x"])
    last = values["channels_last"]
    if node.target is fxpress.adaptive_avg_pool.default:
        sizes = x[1:-1] if last else x[2:]
        if any(size % wanted for size, wanted in zip(sizes, values["size"], strict=True)):
            return None
        kernel = [size // wanted for size, wanted in zip(sizes, values["size"], strict=True)]
        return Window(kernel, kernel, [0] * len(kernel), False, last)
    return Window(values["kernel"], values["stride"], values["padding"], values["ceil_mode"], last)


def _mean_window(values: dict[str, Any]) -> Window | None:
    x = values["self"]
    rank = len(shape(x))
    dims = sorted(dim % rank for dim in values["dim"] or ())
    if rank not in (3, 4) or values["dtype"] not in (None, torch.float32):
        return None
    for last, spatial in ((True, list(range(1, rank - 1))), (False, list(range(2, rank)))):
        if dims == spatial:
            kernel = [shape(x)[dim] for dim in spatial]
            return Window(kernel, kernel, [0] * len(kernel), False, last)
    return None


def _check_layer(node: Node, values: dict[str, Any]) -> str | None:
    if dtype(values["weight"]) != torch.float32:
        return f"its weight is {_type(values['weight'])}, not float32"
    return None


def _check_attention(node: Node, values: dict[str, Any]) -> str | None:
    query, key, mask = values["query"], values["key"], values["attn_mask"]
    if len(shape(query)) not in (3, 4) or len(shape(key)) != len(shape(query)):
        return "its operands must have 3 or 4 dimensions"
    if mask is not None and dtype(mask) not in (torch.float32, torch.bool):
        return f"its mask is {_type(mask)}"
    return "it drops elements out" if values["dropout_p"] else None


def _check_add(node: Node, values: dict[str, Any]) -> str | None:
    return "it scales an operand by alpha" if values["alpha"] != 1 else None


def _check_average(node: Node, values: dict[str, Any]) -> str | None:
    if not is_static(node.all_input_nodes[0]):
        return "its sizes vary"
    window = window_of(node)
    if window is None:
        if node.target is aten.mean.dim:
            return "it is not over all spatial dims"
        return "its windows differ in size"
    if len(window.kernel) > 2:
        return "it has three dimensions"
    if node.target is not fxpress.avg_pool.default:
        return None
    if values["divisor"] not in (None, prod(window.kernel)):
        return "its divisor is not the window's size"
    if any(window.padding) and not values["count_include_pad"]:
        return "padding does not count in its windows"
    return "its last windows overhang" if window.ceil_mode else None


def _check_maximum(node: Node, values: dict[str, Any]) -> str | None:
    return "it has three dimensions" if len(values["kernel"]) > 2 else None


def _check_table(node: Node, values: dict[str, Any]) -> str | None:
    return "its limits are not both numbers" if activation_name(node) is None else None


def _check_embedding(node: Node, values: dict[str, Any]) -> str | None:
    return _check_layer(node, values)


_CHECKS = {
    "layer": _check_layer,
    "attention": _check_attention,
    "add": _check_add,
    "average": _check_average,
    "maximum": _check_maximum,
    "table": _check_table,
    "embedding": _check_embedding,
}


def _is_float32(node: Node) -> bool:
    values = node.meta["val"]
    tensors = values if isinstance(values, list | tuple) else [values]
    return all(isinstance(x, torch.Tensor) and x.dtype == torch.float32 for x in tensors)


def _type(node: Node) -> str:
    value = node.meta["val"]
    return str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
