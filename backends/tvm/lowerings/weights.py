"""Weights that are packed when the model is compiled: constants, or codebooks and weights without their zeros.

The latter are expanded at load where the kernel does not read them as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.codebook import VALUES, ExpandCodebook
from ..lowering import Lowering, OpRule
from ..views import View
from .sparse_weights import expanded, is_known, known_weight

fxpress = torch.ops.fxpress

LAYERS = (fxpress.conv.default, fxpress.conv_transpose.default, fxpress.linear.default)


def check_weight(node: Node, target: CpuTarget) -> str | None:
    """Why the weight of `node`, its second operand, cannot be packed; None when it can."""
    weight = node.args[1]
    if not is_known(weight) and (not isinstance(weight, Node) or weight.target is not fxpress.codebook.default):
        return "its weight must be a constant"
    if weight.meta["val"].dtype != torch.float32:
        return f"its weight must be float32, not {weight.meta['val'].dtype}"
    return None


def weight_tensor(cx: Lowering, node: Node) -> torch.Tensor:
    """The float32 tensor of a weight that `check_weight` lets pass."""
    if is_known(node):
        return known_weight(node)
    indices, values = _parts(cx, node)
    return values[indices.to(torch.int64)]


def packed_weight(cx: Lowering, node: Node, pack: Callable[[torch.Tensor], torch.Tensor]) -> View:
    """The memory of a packed weight. `pack` only moves elements, and adds zeros.

    A codebook's indices are stored packed, and expanded at load: all but those of 256 values none of which is 0. So is
    what is not zero of a weight that is stored without its zeros.
    """
    if cx.constant_tensor(node) is not None:
        return cx.constant(pack(weight_tensor(cx, node)))
    if is_known(node):
        return expanded(cx, pack(weight_tensor(cx, node)))
    indices, values = _zero_first(*_parts(cx, node))
    if len(values) > VALUES:
        return cx.constant(pack(weight_tensor(cx, node)))
    return _looked_up(cx, pack(indices.to(torch.float32)).to(torch.uint8), values)


def codebook(node: Node, cx: Lowering) -> None:
    """Layers pack the codebooks that are their weights themselves; for all else one is expanded as it is."""
    if not all(user.target in LAYERS and user.all_input_nodes.count(node) == 1 for user in node.users):
        cx.alias(node, _looked_up(cx, *_parts(cx, node)))


def _looked_up(cx: Lowering, indices: torch.Tensor, values: torch.Tensor) -> View:
    table = torch.nn.functional.pad(values, (0, VALUES - len(values)))
    memory = cx.derived(tuple(indices.shape))
    cx.prepare(ExpandCodebook(indices.numel()), cx.constant(indices), cx.constant(table), memory)
    return memory


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
