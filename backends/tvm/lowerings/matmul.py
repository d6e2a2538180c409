"""Products of two activations, batched, on strided views."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ....target import Target
from ..kernels.matmul import MatMul, Matrix
from ..lowering import Lowering, OpRule
from ..views import View

aten = torch.ops.aten


def check(node: Node, target: Target) -> str | None:
    for operand in node.all_input_nodes:
        if operand.meta["val"].dtype != torch.float32:
            return f"its operands must be float32, not {operand.meta['val'].dtype}"
    return None


def matmul(node: Node, cx: Lowering) -> None:
    a, b = (cx.view(n) for n in node.args[:2])
    y = cx.output(node, strided=True)
    out = y
    if len(a.shape) == 1:
        a, out = _insert(a, 0, 0), _insert(out, len(out.shape) - (len(b.shape) > 1), 0)
    if len(b.shape) == 1:
        b, out = _insert(b, 1, 0), _insert(out, len(out.shape), 0)
    batch = out.shape[:-2]
    a, b = a.expand((*batch, *a.shape[-2:])), b.expand((*batch, *b.shape[-2:]))
    kernel = MatMul.choose(
        batch,
        out.shape[-2],
        out.shape[-1],
        a.shape[-1],
        target=cx.target,
        a=_matrix(a),
        b=_matrix(b),
        y=_matrix(out),
    )
    cx.call(kernel, a, b, y)


def _matrix(view: View) -> Matrix:
    return Matrix(view.strides[:-2], view.strides[-2], view.strides[-1])


def _insert(view: View, dim: int, stride: int) -> View:
    """The view with a dimension of size 1 before `dim`."""
    return View(
        view.storage,
        view.offset,
        (*view.shape[:dim], 1, *view.shape[dim:]),
        (*view.strides[:dim], stride, *view.strides[dim:]),
    )


RULES: dict[Any, OpRule] = {
    aten.matmul.default: OpRule(matmul, check),
    aten.bmm.default: OpRule(matmul, check),
    aten.mm.default: OpRule(matmul, check),
}
