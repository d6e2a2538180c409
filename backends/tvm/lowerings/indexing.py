"""Reading and writing by index: embeddings, index_select, gather, scatter and advanced indexing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.gather import gather_kernel, lookup_kernel
from ..kernels.linear import Linear, pack
from ..kernels.linear_shape import LinearShape
from ..kernels.pointwise_program import Instruction
from ..kernels.scatter import scatter_kernel
from ..lowering import Lowering, OpRule
from ..views import View
from .linear import linear_kernel

aten = torch.ops.aten
fxpress = torch.ops.fxpress
INDEX_DTYPES = (torch.int32, torch.int64)


def embedding(node: Node, cx: Lowering) -> None:
    weight, indices = node.args[:2]
    ids, out = cx.contiguous(indices), cx.output(node)
    rows, inner = weight.meta["val"].shape
    panel = _shared_panel(weight, cx)
    tensor = cx.constant_tensor(weight)
    if panel and tensor is not None:
        table = cx.constant(pack(tensor, panel))
    else:
        panel, table = 0, cx.contiguous(weight)
    kernel = lookup_kernel(1, rows, inner, ids.elements, ids.dtype, table.dtype, cx.target, panel=panel)
    cx.call(kernel, table, ids, out)


def _shared_panel(weight: Node, cx: Lowering) -> int:
    """The panel width of the linear layer that has the same weight, so that one packed copy serves both; else 0."""
    for user in weight.users:
        if user.target == fxpress.linear.default and user.args[1] is weight:
            n, k = weight.meta["val"].shape
            m = user.meta["val"].numel() // n
            kernel = linear_kernel(LinearShape.dense(m, n, k), cx.target)
            return kernel.width if isinstance(kernel, Linear) else 0
    return 0


def index_select(node: Node, cx: Lowering) -> None:
    x, dim, index = node.args
    view = cx.view(x)
    _lookup(cx, view, dim % len(view.shape), 1, cx.contiguous(index), cx.output(node))


def index(node: Node, cx: Lowering) -> None:
    """x[:, i, j, :]: the indices, broadcast together, become one index into the joined dimensions."""
    x, indices = node.args
    view = cx.view(x)
    first = next(i for i, n in enumerate(indices) if n is not None)
    given = [n for n in indices if n is not None]
    shape: tuple[int, ...] = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
        *(tuple(n.meta["val"].shape) for n in given)
    )
    if len(given) == 1:
        joined = cx.contiguous(given[0])
    else:
        joined = _join_indices(cx, [cx.view(n).expand(shape) for n in given], view.shape[first : first + len(given)])
    _lookup(cx, view, first, len(given), joined, cx.output(node))


def _join_indices(cx: Lowering, views: list[View], sizes: tuple[int, ...]) -> View:
    """((i0 mod n0) n1 + (i1 mod n1)) n2 + ...: negative indices count from the end."""
    program: list[Instruction] = []

    def add(op: str, *arguments: int, parameters: tuple[Any, ...] = ()) -> int:
        program.append(Instruction(op, arguments, "int64", parameters))
        return len(program) - 1

    total: int | None = None
    zero = add("constant", parameters=(0,))
    for number, (view, size) in enumerate(zip(views, sizes, strict=True)):
        program.append(Instruction("input", (), view.dtype, (number,)))
        value = add("cast", len(program) - 1)
        length = add("constant", parameters=(size,))
        program.append(Instruction("lt", (value, zero), "bool"))
        value = add("add", value, add("where", len(program) - 1, length, zero))
        total = value if total is None else add("add", add("mul", total, length), value)
    assert total is not None
    out = cx.temporary(views[0].shape, "int64")
    cx.elementwise(views, [out], program, [total])
    return out


def _lookup(cx: Lowering, x: View, first: int, count: int, ids: View, out: View) -> None:
    """Rows of `x`, seen as [outer, rows, inner] with the dims first..first+count-1 as rows, picked by `ids`."""
    outer, rows = math.prod(x.shape[:first]), math.prod(x.shape[first : first + count])
    inner = math.prod(x.shape[first + count :])
    table = x.reshape((outer, rows, inner))
    if table is None or (inner > 1 and table.strides[2] != 1):
        table = cx.contiguous(x, "copy: rows to pick must be dense").reshape((outer, rows, inner))
        assert table is not None
    strides = table.strides[0], table.strides[1]
    kernel = lookup_kernel(outer, rows, inner, ids.elements, ids.dtype, x.dtype, cx.target, strides=strides, wrap=True)
    cx.call(kernel, table, ids, out)


def check_index(node: Node, target: CpuTarget) -> str | None:
    indices = node.args[1]
    places = [i for i, n in enumerate(indices) if n is not None]
    if any(indices[i].meta["val"].dtype not in INDEX_DTYPES for i in places):
        return "indices must be int32 or int64"
    if places != list(range(places[0], places[0] + len(places))):
        return "indices with a slice between them are not supported; permute the tensor first"
    return None


def gather(node: Node, cx: Lowering) -> None:
    x, dim, index = cx.view(node.args[0]), node.args[1], cx.view(node.args[2])
    out = cx.output(node)
    dim %= max(len(x.shape), 1)
    kernel = gather_kernel(
        out.shape, dim, x.shape[dim], index.dtype, x.dtype, x.strides, index.strides, out.strides, cx.target
    )
    cx.call(kernel, x, index, out)


def scatter(op: str | None = None) -> Callable[[Node, Lowering], None]:
    """A copy of the input, then what is scattered into it by `op`, or by the op that the node names."""

    def lower(node: Node, cx: Lowering) -> None:
        x, dim, ids, source = cx.view(node.args[0]), node.args[1], cx.view(node.args[2]), cx.view(node.args[3])
        out = cx.output(node)
        dim %= len(x.shape)
        cx.copy(x, out)
        layout = ids.strides, source.strides, out.strides
        kernel = scatter_kernel(
            op or node.args[4], ids.shape, dim, x.shape[dim], ids.dtype, out.dtype, *layout, cx.target
        )
        cx.call(kernel, ids, source, out)

    return lower


def check_scatter(node: Node, target: CpuTarget) -> str | None:
    value = node.args[0].meta["val"]
    if len(node.args) > 4 and (node.args[4] == "mean" or not node.kwargs.get("include_self", True)):
        return f"a scattered {node.args[4]} of {value.dtype} is not supported"
    return None if value.dim() else "a number has no dimensions to work along"


RULES: dict[Any, OpRule] = {
    aten.embedding.default: OpRule(embedding),
    aten.index_select.default: OpRule(index_select),
    aten.index.Tensor: OpRule(index, check_index),
    aten.gather.default: OpRule(gather),
    aten.scatter.src: OpRule(scatter("put"), check_scatter),
    aten.scatter_add.default: OpRule(scatter("sum"), check_scatter),
    aten.scatter_reduce.two: OpRule(scatter(), check_scatter),
}
