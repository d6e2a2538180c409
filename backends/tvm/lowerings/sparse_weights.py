"""Weights that are stored without their zeros: their values when the model is compiled, or expanded at load."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ....sparsity import UNPACK
from ..kernels.expand_masked import ExpandMasked
from ..lowering import Lowering, OpRule, dtype_name
from ..views import View

fxpress = torch.ops.fxpress

LAYERS = (
    fxpress.conv.default,
    fxpress.conv_transpose.default,
    fxpress.linear.default,
    fxpress.quantized_conv.default,
    fxpress.quantized_conv_float.default,
    fxpress.quantized_linear.default,
    fxpress.quantized_linear_float.default,
)
"""The ops whose rules read such a weight themselves."""


def is_known(weight: Any) -> bool:
    """Whether the value of `weight` is known when the model is compiled: a constant, or unpacked from constants."""
    if not isinstance(weight, Node):
        return False
    return weight.op == "get_attr" or (
        weight.target in UNPACK and all(part.op == "get_attr" for part in weight.all_input_nodes)
    )


def known_weight(weight: Node) -> torch.Tensor:
    """The whole weight, of which `is_known` holds."""
    if weight.op == "get_attr":
        return _constant(weight)
    whole: torch.Tensor = weight.target(*torch.fx.node.map_arg(weight.args, _constant))
    return whole


def expanded(cx: Lowering, packed: torch.Tensor) -> View:
    """Memory that holds `packed` once the artifact is loaded, which stores it without its zeros."""
    memory = cx.derived(tuple(packed.shape), dtype_name(packed.dtype))
    cx.prepare(ExpandMasked(packed.numel(), memory.dtype), *map(cx.constant, ExpandMasked.pack(packed)), memory)
    return memory


def _unpack(node: Node, cx: Lowering) -> None:
    """What layers take packed is left to them; for all else the weight is expanded as it is."""
    if not all(user.target in LAYERS and user.all_input_nodes.count(node) == 1 for user in node.users):
        cx.alias(node, expanded(cx, known_weight(node)))


def _check(node: Node, target: CpuTarget) -> str | None:
    return None if is_known(node) else "what it unpacks must be constants"


def _constant(node: Node) -> torch.Tensor:
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()  # type: ignore[no-any-return]


RULES: dict[Any, OpRule] = {op: OpRule(_unpack, _check) for op in UNPACK}
