"""From the nodes of a program to layers: every node becomes a layer, a view that costs nothing, or is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.fx import Node

from ....ops import fxpress
from ....program import Program
from ..architecture import Architecture
from . import float_layers as _float_layers  # noqa: F401  (defines ops)
from .array_layers import convolution, linear, product
from .moves import concatenate, expand, item, parts, permute, reshape, same, select_one, slice_, transpose
from .selector import Selection, Selector
from .vector_layers import lookup, pool, requantize, sum_

aten = torch.ops.aten

Rule = Callable[[Selector, Node], None]

LAYERS: dict[Any, Rule] = {
    fxpress.quantized_conv.default: convolution,
    fxpress.conv_sums.default: convolution,
    fxpress.quantized_linear.default: linear,
    fxpress.linear_sums.default: linear,
    fxpress.quantized_matmul.default: product,
    fxpress.matmul_sums.default: product,
    fxpress.quantized_add.default: sum_,
    fxpress.quantized_avg_pool.default: pool,
    fxpress.quantized_max_pool.default: pool,
    fxpress.requantize.default: requantize,
    fxpress.lookup.default: lookup,
}
"""Ops that are layers."""


MOVES: dict[Any, Rule] = {
    aten.cat.default: concatenate,
    aten.permute.default: permute,
    aten.transpose.int: transpose,
    aten.reshape.default: reshape,
    aten.view.default: reshape,
    aten.flatten.using_ints: reshape,
    aten.unflatten.int: reshape,
    aten.squeeze.dim: reshape,
    aten.squeeze.dims: reshape,
    aten.unsqueeze.default: reshape,
    aten.expand.default: expand,
    aten.slice.Tensor: slice_,
    aten.select.int: select_one,
    aten.split.Tensor: parts,
    aten.split_with_sizes.default: parts,
    aten.chunk.default: parts,
    aten.unbind.int: parts,
    operator.getitem: item,
    aten.clone.default: same,
    aten.contiguous.default: same,
    aten.alias.default: same,
}
"""Ops that move int8 values."""

RULES: dict[Any, Rule] = {**LAYERS, **MOVES}


def select(
    program: Program, architecture: Architecture, inputs: Sequence[Node], nodes: Sequence[Node], results: Iterable[Node]
) -> Selection:
    """Choose layers for `nodes`, given the int8 values `inputs`. Raises Refused for a node that cannot be done."""
    selector = Selector(program, architecture, set(nodes), set(results))
    selector.place(nodes)
    for node in inputs:
        selector.input(node)
    for node in nodes:
        RULES[node.target](selector, node)
    return selector.done
