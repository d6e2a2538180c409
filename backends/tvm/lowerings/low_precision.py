"""Layers with operands in fewer bits: weight-only, rows quantised at run time, and 16-bit floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ....cpu import CpuTarget
from ..kernels.dynamic_linear import DynamicLinear, QuantizeRows
from ..kernels.linear_shape import LinearShape
from ..kernels.stored_weights import StoredWeight
from ..kernels.weight_only import stored_linear
from ..lowering import Lowering, OpRule
from ..views import View
from .linear import even_rows, rows

fxpress = torch.ops.fxpress

_BITS = {4: torch.uint8, 8: torch.int8}  # of a weight, and the dtype that holds it
_MOST_PRODUCTS = (2**31 - 1) // 128**2  # whose sum always fits 32 bits


def weight_only_linear(node: Node, cx: Lowering) -> None:
    a = arguments(node)
    bits, k = a["bits"], a["x"].meta["val"].shape[-1]
    stored = constant_of(cx, a["weight"])
    if bits == 4:  # two elements a byte, each 8 more than the integer it stands for
        stored = torch.stack((stored & 15, stored >> 4), -1).flatten(1)[:, :k].to(torch.int8) - 8
    group = min(a["group"], k)
    groups = -(-k // group)
    scale = constant_of(cx, a["weight_scale"])[:, :groups]
    zero = None
    if a["weight_zero"] is not None:
        zero = constant_of(cx, a["weight_zero"])[:, :groups].to(torch.int16) - (8 if bits == 4 else 0)
    form = StoredWeight(dtype=f"int{bits}", k=k, group=group, zero=zero is not None)

    def call(shape: LinearShape, source: View, others: Sequence[View]) -> None:
        kernel = stored_linear(shape, form, cx.target)
        packed = kernel.pack(stored, scale, *([] if zero is None else [zero]))
        cx.call(kernel, source, *(cx.constant(part) for part in packed), *others)

    layer(node, cx, cx.view(a["x"]), stored.shape[0], call)


def dynamic_linear(node: Node, cx: Lowering) -> None:
    a = arguments(node)
    weight = constant_of(cx, a["weight"])

    def call(shape: LinearShape, source: View, others: Sequence[View]) -> None:
        quantize = QuantizeRows(
            outer=shape.outer, inner=shape.inner, k=shape.k, x=shape.x, lanes=cx.target.vector.lanes
        )
        integers = cx.temporary((shape.m, QuantizeRows.stride(shape.k)), "uint8")
        scales = cx.temporary((shape.m,))
        cx.call(quantize, source, integers, scales, note="rows to 8-bit integers")
        kernel = DynamicLinear.choose(shape, cx.target)
        packed = [cx.constant(part) for part in kernel.constants(weight)]
        cx.call(kernel, integers, scales, *packed, cx.contiguous(a["weight_scale"]), *others)

    layer(node, cx, cx.view(a["x"]), weight.shape[0], call)


def layer(
    node: Node,
    cx: Lowering,
    source: View,
    n: int,
    call: Callable[[LinearShape, View, Sequence[View]], None],
    target: View | None = None,
    residual: View | None = None,
) -> None:
    """Lower a linear layer of `n` columns that reads x from `source`.

    `call(shape, x, others)` calls the kernel; others are bias and residual, where there are any, and y. The result goes
    to `target`, by default the memory of the node's value; `residual` is by default the view of the node's.
    """
    a = arguments(node)
    target = cx.output(node, strided=True) if target is None else target
    bias = a["bias"]
    if residual is None and a["residual"] is not None:
        residual = cx.view(a["residual"])
    source, computed, added, split = even_rows(cx, source, target, residual)
    x_rows, y_rows = rows(source, split), rows(computed, split)
    assert x_rows is not None
    assert y_rows is not None
    outer = math.prod(target.shape[:split])
    shape = LinearShape(
        outer=outer,
        inner=target.elements // (outer * n) if target.elements else 0,
        n=n,
        k=source.shape[-1],
        x=x_rows,
        y=y_rows,
        residual=None if added is None else rows(added, split),
        bias=bias is not None,
        activation=a["activation"],
    )
    others = [] if bias is None else [cx.contiguous(bias)]
    others += [] if added is None else [added]
    call(shape, source, [*others, computed])
    if computed is not target:
        cx.copy(computed, target, "copy: into the concatenation")


def constant_of(cx: Lowering, node: Node) -> torch.Tensor:
    """The tensor of a node that `not_constant` has found to be a constant."""
    tensor = cx.constant_tensor(node)
    assert tensor is not None
    return tensor


def _check_weight_only(node: Node, target: CpuTarget) -> str | None:
    a = arguments(node)
    if a["bits"] not in _BITS:
        return f"its weight must have 4 or 8 bits, not {a['bits']}"
    wanted = {"weight": _BITS[a["bits"]], "weight_scale": None, "weight_zero": torch.uint8}
    return not_constant(a, wanted) or _not_float32(a) or no_elements(node, a)


def _check_dynamic(node: Node, target: CpuTarget) -> str | None:
    a = arguments(node)
    k = a["x"].meta["val"].shape[-1]
    if k > _MOST_PRODUCTS:
        return f"its rows must have at most {_MOST_PRODUCTS} elements, not {k}: longer sums may not fit 32 bits"
    wanted = {"weight": torch.int8, "weight_scale": torch.float32}
    return not_constant(a, wanted) or _not_float32(a) or no_elements(node, a)


def not_constant(a: dict[str, Any], wanted: Mapping[str, torch.dtype | None]) -> str | None:
    """Why one of these arguments is no constant of that dtype (any, where it is None); None when all are."""
    for name, dtype in wanted.items():
        value = a[name]
        if value is None:
            continue
        if not isinstance(value, Node) or value.op != "get_attr":
            return f"its {name} must be a constant"
        if dtype is not None and value.meta["val"].dtype != dtype:
            return f"its {name} must be {dtype}, not {value.meta['val'].dtype}"
    return None


def _not_float32(a: dict[str, Any]) -> str | None:
    for name in ("x", "bias", "residual"):
        if a[name] is not None and a[name].meta["val"].dtype != torch.float32:
            return f"its {name} must be torch.float32, not {a[name].meta['val'].dtype}"
    return None


def no_elements(node: Node, a: dict[str, Any]) -> str | None:
    """Why a layer without any element is refused; None when it has some."""
    if 0 in node.meta["val"].shape or 0 in a["x"].meta["val"].shape:
        return f"its input must have elements, not shape {tuple(a['x'].meta['val'].shape)}"
    return None


RULES: dict[Any, OpRule] = {
    fxpress.weight_only_linear.default: OpRule(weight_only_linear, _check_weight_only),
    fxpress.dynamic_linear.default: OpRule(dynamic_linear, _check_dynamic),
}
