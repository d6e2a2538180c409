"""The layers whose weights may get zeros that kernels skip, their weights as matrices, and why others get none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ...ops import fxpress
from ...ops.library import channels_first, pad
from ...ops.sparse import from_matrix, weight_matrix
from ...program import Program
from ..canonicalize.normalize_conv import padding_pairs
from ..match import arguments, is_call, is_constant, pair, shape
from ..quantization.layer_rows import patches

aten = torch.ops.aten

LINEARS = {aten.linear.default: ("input", "weight"), fxpress.linear.default: ("x", "weight")}
PRODUCTS = {
    aten.mm.default: ("self", "mat2"),
    aten.matmul.default: ("self", "other"),
    aten.addmm.default: ("mat1", "mat2"),
}
CONVOLUTIONS = {
    fxpress.conv.default: ("x", "weight"),
    **dict.fromkeys(
        (aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default),
        ("input", "weight"),
    ),
}
LAYERS = LINEARS | PRODUCTS | CONVOLUTIONS
"""Op -> the names of its input and its weight, which products have as [inputs, outputs]."""
_TRANSPOSED_CONV = "no kernel of a transposed convolution skips zeros"
_RECURRENT = "no kernel of a recurrent layer skips zeros"
OTHERS = {
    aten.embedding.default: "an embedding looks rows up and multiplies nothing",
    aten.conv_transpose1d.default: _TRANSPOSED_CONV,
    aten.conv_transpose2d.input: _TRANSPOSED_CONV,
    aten.conv_transpose3d.input: _TRANSPOSED_CONV,
    fxpress.conv_transpose.default: _TRANSPOSED_CONV,
    aten.gru.input: _RECURRENT,
    aten.lstm.input: _RECURRENT,
}
"""Ops with weights that get no zeros, and why."""


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A weight and the calls that multiply with it: several where it is shared. It goes by the first one's name."""

    weight: Node
    calls: tuple[Node, ...]
    is_transposed: bool

    @property
    def name(self) -> str:
        """What reports call it."""
        return str(self.calls[0].name)

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as [outputs, inputs]."""
        return weight.T if self.is_transposed else weight_matrix(weight)

    def weight_of(self, matrix: Tensor) -> Tensor:
        """The weight that has this matrix."""
        return matrix.T.contiguous() if self.is_transposed else from_matrix(matrix, shape(self.weight))


def input_of(call: Node) -> Node:
    """What a layer's call multiplies with its weight."""
    x: Node = arguments(call)[LAYERS[call.target][0]]
    return x


def rows_of(call: Node, x: Tensor) -> Tensor:
    """[r, inputs]: what the rows of a layer's matrix are multiplied with, of its input `x`."""
    if call.target not in CONVOLUTIONS:
        return x.reshape(-1, x.shape[-1])
    a = arguments(call)
    kernel = a["weight"].meta["val"].shape[2:]
    dims = len(kernel)
    padding, stride, dilation = a["padding"], pair(a["stride"], dims), pair(a["dilation"], dims)
    if call.target is fxpress.conv.default:
        x = channels_first(x, a["channels_last"])
    else:
        x = x.unsqueeze(0) if x.dim() == dims + 1 else x
        padding = padding_pairs(padding, kernel, dilation)
    windows = patches(pad(x, padding), kernel, stride, dilation)
    windows = windows.movedim(1, -1)
    return windows.reshape(prod(windows.shape[: dims + 1]), -1)


def find_layers(program: Program) -> tuple[list[WeightLayer], list[tuple[Node, str]]]:
    """The layers of a Program whose weights may get zeros, in order; those that get none, and why."""
    left: list[tuple[Node, str]] = []
    calls: dict[str, list[tuple[Node, Node, bool]]] = {}
    for node in program.nodes:
        if is_call(node, *OTHERS):
            left.append((node, OTHERS[node.target]))
        elif is_call(node, *LAYERS):
            weight, is_flipped = _weight_of(node)
            reason = _why_not(node, weight)
            if reason is not None:
                left.append((node, reason))
            elif weight is not None:
                is_transposed = (node.target in PRODUCTS) != is_flipped
                calls.setdefault(str(weight.target), []).append((node, weight, is_transposed))
    found = []
    for name, each in calls.items():
        reason = _why_not_shared(program, name, each)
        if reason is None:
            found.append(WeightLayer(each[0][1], tuple(node for node, _, _ in each), each[0][2]))
        else:
            left += [(node, reason) for node, _, _ in each]
    return found, left


def _weight_of(node: Node) -> tuple[Node | None, bool]:
    """The constant that is the weight, and whether it is transposed on its way; None where it is computed."""
    weight: Any = arguments(node)[LAYERS[node.target][1]]
    if is_call(weight, aten.permute.default) and is_constant(weight.args[0]) and list(weight.args[1]) == [1, 0]:
        return weight.args[0], True
    return (weight if is_constant(weight) else None), False


def _why_not(node: Node, weight: Node | None) -> str | None:
    """Why a call of LAYERS gets no zeros; None also for a product of computed values, which is no layer."""
    if weight is None:
        return None if node.target in PRODUCTS else "its weight is computed"
    if not weight.meta["val"].is_floating_point():
        return f"its weight is {weight.meta['val'].dtype}, not of floats"
    if is_constant(input_of(node)):
        return "its input is a constant"
    if node.target not in CONVOLUTIONS:
        return None if len(shape(weight)) == 2 else f"its weight has {len(shape(weight))} dims, not two"
    groups = arguments(node)["groups"]
    if groups == 1:
        return None
    if shape(weight)[1] == 1:
        return "a depthwise convolution has no inner products worth skipping"
    return "no kernel of a grouped convolution skips zeros"


def _why_not_shared(program: Program, name: str, calls: list[tuple[Node, Node, bool]]) -> str | None:
    layers = {node for node, _, _ in calls}
    for reader in _readers(program, name):
        if reader not in layers:
            return f"%{reader.name} reads its weight too"
    if len({is_transposed for _, _, is_transposed in calls}) > 1:
        return "its weight is read both as it is and transposed"
    return None


def _readers(program: Program, name: str) -> Iterator[Node]:
    """The nodes that read a constant, those behind a transposition instead of it."""
    for constant in program.nodes:
        if constant.op != "get_attr" or str(constant.target) != name:
            continue
        for user in constant.users:
            is_flip = is_call(user, aten.permute.default) and list(user.args[1]) == [1, 0]
            yield from user.users if is_flip else (user,)
