"""Sorting and the largest or smallest few."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.sort import sort_kernel
from ..lowering import Lowering, OpRule
from ..views import View
from .view_ops import argument

aten = torch.ops.aten
DTYPES = (torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def sort(node: Node, cx: Lowering) -> None:
    _sort(node, cx, argument(node, 1, "dim", -1), argument(node, 2, "descending", False))


def stable_sort(node: Node, cx: Lowering) -> None:
    _sort(node, cx, node.kwargs.get("dim", -1), node.kwargs.get("descending", False))


def top_k(node: Node, cx: Lowering) -> None:
    _sort(node, cx, argument(node, 2, "dim", -1), argument(node, 3, "largest", True))


def _sort(node: Node, cx: Lowering, dim: Any, descending: Any) -> None:
    x, values, indices = cx.view(node.args[0]), cx.output(node, 0), cx.output(node, 1)
    if not x.shape:  # a number is sorted
        x, values, indices = (View(v.storage, v.offset, (1,), (1,)) for v in (x, values, indices))
    dim %= len(x.shape)
    kernel = sort_kernel(
        x.shape,
        dim,
        values.shape[dim],
        bool(descending),
        x.dtype,
        x.strides,
        values.strides,
        indices.strides,
        cx.target,
    )
    cx.call(kernel, x, values, indices)


def check(node: Node, target: CpuTarget) -> str | None:
    dtype = node.args[0].meta["val"].dtype
    return None if dtype in DTYPES else f"{dtype} values cannot be sorted"


RULES: dict[Any, OpRule] = {
    aten.sort.default: OpRule(sort, check),
    aten.sort.stable: OpRule(stable_sort, check),
    aten.topk.default: OpRule(top_k, check),
}
