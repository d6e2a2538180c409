"""Weights that are packed when the model is compiled: constants, or codebooks that are expanded at load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.codebook import VALUES, ExpandCodebook
from ..lowering import Lowering, OpRule
from ..views import View

fxpress = torch.ops.fxpress

LAYERS = (fxpress.conv.default, fxpress.conv_transpose.default, fxpress.linear.default)


def check_weight(node: Node, target: CpuTarget) -> str | None:
    """Why the weight of `node`, its second operand, cannot be packed; None when it can."""
    weight = node.args[1]
    if not isinstance(weight, Node) or (weight.op != "get_attr" and weight.target is not fxpress.codebook.default):
        return "its weight must be a constant"
    if weight.meta["val"].dtype != torch.float32:
        return f"its weight must be float32, not {weight.meta['val'].dtype}"
    return None


def weight_tensor(cx: Lowering, node: Node) -> torch.Tensor:
    """The float32 tensor of a weight that `check_weight` lets pass."""
    tensor = cx.constant_tensor(node)
    if tensor is None:
        indices, values = _parts(cx, node)
        tensor = values[indices.to(torch.int64)]
    return tensor


def packed_weight(cx: Lowering, node: Node, pack: Callable[[torch.Tensor], torch.Tensor]) -> View:
    """The memory of a packed weight. `pack` only moves elements, and adds zeros.

    A codebook's indices are stored packed, and expanded at load: all but those of 256 values none of which is 0.
    """
    if cx.constant_tensor(node) is not None:
        return cx.constant(pack(weight_tensor(cx, node)))
    indices, values = _zero_first(*_parts(cx, node))
    if len(values) > VALUES:
        return cx.constant(pack(weight_tensor(cx, node)))
    return _expanded(cx, pack(indices.to(torch.float32)).to(torch.uint8), values)


def codebook(node: Node, cx: Lowering) -> None:
    """Layers pack the codebooks that are their weights themselves; for all else one is expanded as it is."""
    if not all(user.target in LAYERS and user.all_input_nodes.count(node) == 1 for user in node.users):
        cx.alias(node, _expanded(cx, *_parts(cx, node)))


def _expanded(cx: Lowering, indices: torch.Tensor, values: torch.Tensor) -> View:
    table = torch.nn.functional.pad(values, (0, VALUES - len(values)))
    expanded = cx.derived(tuple(indices.shape))
    cx.prepare(ExpandCodebook(indices.numel()), cx.constant(indices), cx.constant(table), expanded)
    return expanded


def _parts(cx: Lowering, node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    indices, values = (cx.constant_tensor(part) for part in node.args)
    assert indices is not None
    assert values is not None
    return indices, values


def _zero_first(indices: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same weight by a table that begins with 0, which is what packing adds."""
    if float(values[0]) == 0:
        return indices, values
    return indices.to(torch.int16) + 1, torch.cat((values.new_zeros(1), values))


def _check_codebook(node: Node, target: CpuTarget) -> str | None:
    for name, part, dtype in zip(("indices", "values"), node.args, (torch.uint8, torch.float32), strict=True):
        if not isinstance(part, Node) or part.op != "get_attr":
            return f"its {name} must be constant"
        if part.meta["val"].dtype != dtype:
            return f"its {name} must be {dtype}, not {part.meta['val'].dtype}"
    values: Any = node.args[1]
    count = values.meta["val"].numel()
    return None if count <= VALUES else f"it must have at most {VALUES} values, not {count}"


RULES: dict[Any, OpRule] = {fxpress.codebook.default: OpRule(codebook, _check_codebook)}
