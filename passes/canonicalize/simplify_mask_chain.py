"""x[arange(n)]  ->  x; x & True  ->  x: what padding masks of text models are made of"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import dtype, is_static, shape

aten = torch.ops.aten

MAX_ELEMENTS = 1 << 20  # of a value whose indices are tried out


@rewrite(aten.index.Tensor)
def index_as_view(node: Node, rw: Rewriter) -> None:
    """x[arange(n)[:, None], arange(m)]  ->  reshape(x), when constant indices pick every element in order"""
    x: Any = node.args[0]
    indices: Any = node.args[1]
    if not is_static(x) or not is_static(node) or prod(shape(x)) > MAX_ELEMENTS:
        return
    if prod(shape(x)) != prod(shape(node)) or any(i is not None and rw.value(i) is None for i in indices):
        return
    tensors = [None if i is None else rw.value(i) for i in indices]
    numbered = torch.arange(prod(shape(x)))
    if torch.equal(aten.index.Tensor(numbered.reshape(shape(x)), tensors).flatten(), numbered):
        rw.replace(node, rw.call(aten.reshape.default, x, list(shape(node)), at=node))


@rewrite(aten.bitwise_and.Tensor, aten.logical_and.default)
def drop_and_true(node: Node, rw: Rewriter) -> None:
    """x & True  ->  x, or expand(x) where the constant has more elements"""
    for x, other in (node.args, node.args[::-1]):
        value = rw.value(other)
        if not isinstance(x, Node) or value is None or value.dtype != torch.bool or dtype(x) != torch.bool:
            continue
        if bool(value.all()) and is_static(node):
            same = shape(x) == shape(node)
            rw.replace(node, x if same else rw.call(aten.expand.default, x, list(shape(node)), at=node))
            return
