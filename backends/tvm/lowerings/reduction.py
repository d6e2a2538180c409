"""Reductions: sums, means, extremes, variances and norms over any dimensions of a strided view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.reduce import reduce_kernel
from ..lowering import Lowering, OpRule
from ..views import View
from .view_ops import argument, reduced_dims

aten = torch.ops.aten


def reduction(op: str, *, has_dim: bool = True) -> Callable[[Node, Lowering], None]:
    """A reduction whose second argument is the dims (all of them when absent)."""

    def lower(node: Node, cx: Lowering) -> None:
        x = cx.view(node.args[0])
        dims = reduced_dims(argument(node, 1, "dim") if has_dim else None, len(x.shape))
        _reduce(cx, op, x, dims, cx.output(node))

    return lower


def variance(op: str) -> Callable[[Node, Lowering], None]:
    def lower(node: Node, cx: Lowering) -> None:
        x = cx.view(node.args[0])
        dims = reduced_dims(argument(node, 1, "dim"), len(x.shape))
        _reduce(cx, op, x, dims, cx.output(node), _correction(node))

    return lower


def variance_and_mean(node: Node, cx: Lowering) -> None:
    x = cx.view(node.args[0])
    dims = reduced_dims(argument(node, 1, "dim"), len(x.shape))
    _reduce(cx, "var", x, dims, cx.output(node, 0), _correction(node))
    _reduce(cx, "mean", x, dims, cx.output(node, 1))


def extreme_and_index(op: str) -> Callable[[Node, Lowering], None]:
    def lower(node: Node, cx: Lowering) -> None:
        x = cx.view(node.args[0])
        dims = reduced_dims(node.args[1], len(x.shape))
        _reduce(cx, op, x, dims, cx.output(node, 0))
        _reduce(cx, f"arg{op}", x, dims, cx.output(node, 1))

    return lower


NORMS = {1: "norm1", 2: "norm2", float("inf"): "norm_inf"}


def norm(node: Node, cx: Lowering) -> None:
    x = cx.view(node.args[0])
    _reduce(cx, NORMS[_order(node)], x, reduced_dims(argument(node, 2, "dim"), len(x.shape)), cx.output(node))


def check_norm(node: Node, target: CpuTarget) -> str | None:
    if _order(node) not in NORMS:
        return f"the order of a norm must be 1, 2 or infinity, not {_order(node)}"
    return check(node, target)


def check(node: Node, target: CpuTarget) -> str | None:
    value = node.args[0].meta["val"]
    if value.is_complex():
        return "complex numbers have no kernels"
    return None


def _order(node: Node) -> Any:
    order = argument(node, 1, "ord", 2)
    return 2 if order is None else order


def _correction(node: Node) -> float:
    correction = node.kwargs.get("correction", 1)
    return 1.0 if correction is None else float(correction)


def _reduce(cx: Lowering, op: str, x: View, dims: tuple[int, ...], out: View, correction: float = 1.0) -> None:
    if not x.shape:
        x, dims = View(x.storage, x.offset, (1,), (0,)), (0,)
    kept = [d for d in range(len(x.shape)) if d not in dims]
    strides = out.strides
    if len(out.shape) == len(x.shape):  # keepdim
        strides = tuple(out.strides[d] for d in kept)
    kernel = reduce_kernel(op, x.shape, dims, x.strides, strides, x.dtype, out.dtype, cx.target, correction)
    cx.call(kernel, x, out)


RULES: dict[Any, OpRule] = {
    aten.sum.default: OpRule(reduction("sum", has_dim=False), check),
    aten.sum.dim_IntList: OpRule(reduction("sum"), check),
    aten.mean.default: OpRule(reduction("mean", has_dim=False), check),
    aten.mean.dim: OpRule(reduction("mean"), check),
    aten.prod.default: OpRule(reduction("prod", has_dim=False), check),
    aten.prod.dim_int: OpRule(reduction("prod"), check),
    aten.amax.default: OpRule(reduction("max"), check),
    aten.amin.default: OpRule(reduction("min"), check),
    aten.max.default: OpRule(reduction("max", has_dim=False), check),
    aten.min.default: OpRule(reduction("min", has_dim=False), check),
    aten.any.default: OpRule(reduction("any", has_dim=False), check),
    aten.any.dim: OpRule(reduction("any"), check),
    aten.any.dims: OpRule(reduction("any"), check),
    aten.all.default: OpRule(reduction("all", has_dim=False), check),
    aten.all.dim: OpRule(reduction("all"), check),
    aten.all.dims: OpRule(reduction("all"), check),
    aten.argmax.default: OpRule(reduction("argmax"), check),
    aten.argmin.default: OpRule(reduction("argmin"), check),
    aten.logsumexp.default: OpRule(reduction("logsumexp"), check),
    aten.var.correction: OpRule(variance("var"), check),
    aten.std.correction: OpRule(variance("std"), check),
    aten.var_mean.correction: OpRule(variance_and_mean, check),
    aten.max.dim: OpRule(extreme_and_index("max"), check),
    aten.min.dim: OpRule(extreme_and_index("min"), check),
    aten.linalg_vector_norm.default: OpRule(norm, check_norm),
    aten.norm.ScalarOpt_dim: OpRule(norm, check_norm),
}
