"""Linear layers: rows found in the view's strides, weights packed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.base import Kernel
from ..kernels.conv_shape import rows_as_pixels
from ..kernels.dot import Dot
from ..kernels.linear import Linear
from ..kernels.linear_shape import LinearShape, Rows
from ..kernels.sparse_conv import SparseConv
from ..lowering import Lowering, OpRule
from ..views import View, one_stride
from .sparse_layers import masked_kernel, sparse_kernel
from .weights import check_weight, packed_weight, weight_tensor

fxpress = torch.ops.fxpress


def linear(node: Node, cx: Lowering) -> None:
    x, weight, bias, residual, activation = node.args
    n, k = weight.meta["val"].shape
    target = cx.output(node, strided=True)
    source, computed, added, split = even_rows(cx, cx.view(x), target, None if residual is None else cx.view(residual))
    outer, x_rows, y_rows = math.prod(target.shape[:split]), rows(source, split), rows(computed, split)
    assert x_rows is not None
    assert y_rows is not None
    shape = LinearShape(
        outer=outer,
        inner=target.elements // (outer * n) if target.elements else 0,
        n=n,
        k=k,
        x=x_rows,
        y=y_rows,
        residual=None if added is None else rows(added, split),
        bias=bias is not None,
        activation=activation,
    )
    kernel, packed = _kernel(cx, shape, weight)
    operands = [source, *packed]
    if bias is not None or isinstance(kernel, SparseConv):
        operands.append(cx.constant(torch.zeros(n)) if bias is None else cx.contiguous(bias))
    operands += [added] if added is not None else []
    cx.call(kernel, *operands, computed)
    if computed is not target:
        cx.copy(computed, target, "copy: into the concatenation")


def even_rows(cx: Lowering, source: View, target: View, added: View | None) -> tuple[View, View, View | None, int]:
    """Make the rows of a matrix product lie evenly: copies where they do not.

    Returns x, the place to compute in (`target` unless it lies in pieces), the residual, and how many of the dims in
    front of the rows' elements are outer ones.
    """
    if added is not None and added.shape != target.shape:
        added = added.expand(target.shape)

    def first_split() -> int | None:
        views = [v for v in (source, target, added) if v is not None]
        return next((s for s in range(len(source.shape)) if all(rows(v, s) is not None for v in views)), None)

    split = first_split()
    if split is None:
        source = cx.contiguous(source, "copy: the rows of the matrix must lie evenly")
        if added is not None:
            added = cx.contiguous(added, "copy: the rows of the residual must lie evenly")
        split = first_split()
    if split is None:  # the output lies in pieces of another value
        return source, replace(cx.temporary(target.shape, target.dtype), biased=target.biased), added, 0
    return source, target, added, split


def _kernel(cx: Lowering, shape: LinearShape, weight: Node) -> tuple[Kernel, tuple[View, ...]]:
    """The kernel for a layer, and its weight operands."""
    if weight.target is fxpress.unpack_blocks.default:
        return sparse_kernel(cx, rows_as_pixels(shape, shape.x), weight_tensor(cx, weight)[:, :, None, None])
    masked = None
    if weight.target is fxpress.unpack_masked.default:
        masked = masked_kernel(cx, shape, weight_tensor(cx, weight))
    if masked is not None:
        return masked
    dense = linear_kernel(shape, cx.target)
    return dense, (packed_weight(cx, weight, dense.pack),)


def linear_kernel(shape: LinearShape, target: CpuTarget) -> Linear | Dot:
    """The kernel for a layer."""
    return Dot.choose(shape, target) if Dot.suits(shape, target) else Linear.choose(shape, target)


def rows(view: View, split: int) -> Rows | None:
    """The two row strides when dims before `split` and dims from `split` each lie evenly, else None."""
    if view.shape[-1] != 1 and view.strides[-1] != 1:
        return None
    outer = one_stride(view.shape[:split], view.strides[:split])
    inner = one_stride(view.shape[split:-1], view.strides[split:-1])
    return None if outer is None or inner is None else Rows(outer, inner)


RULES: dict[Any, OpRule] = {fxpress.linear.default: OpRule(linear, check_weight)}
