"""Ops without a template of ours: TVM's operators under the default schedule, on dense operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from ..kernels.tvm_op import TvmOp
from ..lowering import Lowering, OpRule, dtype_name
from .view_ops import argument

aten = torch.ops.aten


def operator(
    name: str, parameters: Callable[[Node], Sequence[Any]], operands: Callable[[Node], Sequence[Node]]
) -> Callable[[Node, Lowering], None]:
    """An op that is TVM's operator `name` on these operands with these parameters."""

    def lower(node: Node, cx: Lowering) -> None:
        views = [cx.contiguous(n) for n in operands(node)]
        inputs = tuple((view.shape, view.dtype) for view in views)
        kernel = TvmOp(name, inputs, tuple(parameters(node)), cx.target)
        cx.call(kernel, *views, cx.output(node))

    return lower


def _scan(node: Node) -> tuple[int, str]:
    rank = max(node.args[0].meta["val"].dim(), 1)
    return int(node.args[1]) % rank, dtype_name(node.meta["val"].dtype)


def _first(node: Node) -> Sequence[Node]:
    return [node.args[0]]


def _check_scalar(node: Node, target: Any) -> str | None:
    return None if node.args[0].meta["val"].dim() else "a number has no dimensions to work along"


def _check_put(node: Node, target: Any) -> str | None:
    if any(n is not None and n.meta["val"].dtype == torch.bool for n in node.args[1]):
        return "what is put where a mask is true must be one value; use torch.where"
    if any(n is None for n in node.args[1]) or len(node.args[1]) != node.args[0].meta["val"].dim():
        return "every dimension must be indexed"
    return None


RULES: dict[Any, OpRule] = {
    aten.cumsum.default: OpRule(operator("cumsum", _scan, _first), _check_scalar),
    aten.cumprod.default: OpRule(operator("cumprod", _scan, _first), _check_scalar),
    aten.index_put.default: OpRule(
        operator(
            "index_put",
            lambda n: (bool(argument(n, 3, "accumulate", False)),),
            lambda n: [n.args[0], *n.args[1], n.args[2]],
        ),
        _check_put,
    ),
}
