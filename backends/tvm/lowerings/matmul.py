"""Products of two activations, batched, on strided views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.matmul import MatMul, Matrix
from ..lowering import Lowering, OpRule
from ..views import View

aten = torch.ops.aten


def check(node: Node, target: CpuTarget) -> str | None:
    for operand in node.all_input_nodes:
        if operand.meta["val"].dtype != torch.float32:
            return f"its operands must be float32, not {operand.meta['val'].dtype}"
    return None


def matmul(node: Node, cx: Lowering) -> None:
    a, b = (cx.view(n) for n in node.args[:2])
    y = cx.output(node, strided=True)
    a, b, out = as_matrices(a, b, y)
    m, n, k = (*out.shape[-2:], a.shape[-1])
    left, right, result = (matrix_of(view) for view in (a, b, out))
    cx.call(MatMul.choose(out.shape[:-2], m, n, k, target=cx.target, a=left, b=right, y=result), a, b, y)


def as_matrices(a: View, b: View, y: View) -> tuple[View, View, View]:
    """The operands and the result of torch.matmul with the same batch dimensions and two more."""
    if len(a.shape) == 1:
        a, y = _insert(a, 0, 0), _insert(y, len(y.shape) - (len(b.shape) > 1), 0)
    if len(b.shape) == 1:
        b, y = _insert(b, 1, 0), _insert(y, len(y.shape), 0)
    batch = y.shape[:-2]
    return a.expand((*batch, *a.shape[-2:])), b.expand((*batch, *b.shape[-2:])), y


def matrix_of(view: View) -> Matrix:
    """The strides of a batch of matrices."""
    return Matrix(view.strides[:-2], view.strides[-2], view.strides[-1])


def _insert(view: View, dim: int, stride: int) -> View:
    """The view with a dimension of size 1 before `dim`."""
    return replace(
        view,
        shape=(*view.shape[:dim], 1, *view.shape[dim:]),
        strides=(*view.strides[:dim], stride, *view.strides[dim:]),
        halo=(),
    )


RULES: dict[Any, OpRule] = {
    aten.matmul.default: OpRule(matmul, check),
    aten.bmm.default: OpRule(matmul, check),
    aten.mm.default: OpRule(matmul, check),
}
