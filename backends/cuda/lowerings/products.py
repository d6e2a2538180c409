"""Linear layers and products of matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ...tvm.graph_lowering import OpRule
from ...tvm.lowerings.matmul import as_matrices
from ...tvm.views import View, one_stride
from ..kernels.epilogue import Epilogue, Matrices, item_size
from ..kernels.gemm import Gemm
from ..lowering import CudaLowering, aligned_rows
from ..target import CudaTarget
from .normalization import FLOATS

aten = torch.ops.aten
fxpress = torch.ops.fxpress


def linear(node: Node, cx: CudaLowering) -> None:
    a = arguments(node)
    x, y = cx.view(a["x"]), cx.output(node, strided=True)
    weight = cx.constant_tensor(a["weight"])
    if weight is not None:
        weight = weight.to(a["x"].meta["val"].dtype)
    (n, k), m = a["weight"].meta["val"].shape, math.prod(y.shape[:-1])
    dtype = product_dtype(x.dtype, cx.target)
    source, target = matrix(cx, x), y if lies_evenly(y) else cx.temporary(y.shape, y.dtype)
    factor = cx.constant(padded_rows(weight, dtype)) if weight is not None else cx.contiguous(a["weight"])
    residual = None if a["residual"] is None else cx.view(a["residual"]).expand(y.shape)
    epilogue, rest = epilogue_of(cx, a["bias"], residual, a["activation"], y.dtype)
    kernel = Gemm(
        m, n, k, dtype, rows_at(source), rows_at(factor), rows_at(target), epilogue,
        Gemm.blocking_for(m, n, 1, dtype, cx.target.oldest),
        a_chunk=chunk_of(source, dtype), b_chunk=chunk_of(factor, dtype),
    )  # fmt: skip
    cx.call(kernel, source, factor, *rest, target)
    if target is not y:
        cx.copy(target, y, "copy: the rows of the product lie in pieces of another value")


def epilogue_of(
    cx: CudaLowering, bias: Node | None, residual: View | None, activation: str, dtype: str
) -> tuple[Epilogue, list[View]]:
    """What a layer does with its sums, the result being `dtype`, and the views that it reads for that."""
    added = None if residual is None else matrix(cx, residual)
    offset = None if bias is None else cx.contiguous(bias)
    epilogue = Epilogue(
        dtype,
        bias=None if offset is None else offset.dtype,
        residual=None if added is None else rows_at(added),
        residual_dtype="float32" if added is None else added.dtype,
        activation=activation,
    )
    return epilogue, [view for view in (offset, added) if view is not None]


def matmul(node: Node, cx: CudaLowering) -> None:
    a, b = (cx.view(n) for n in node.args[:2])
    out = cx.output(node)
    multiply(cx, *as_matrices(a, b, out), note="")


def multiply(cx: CudaLowering, a: View, b: View, y: View, note: str = "") -> None:
    """Call the kernel of y = a @ b for batches of matrices; operands that do not suit it are copied."""
    dtype = product_dtype(a.dtype, cx.target)
    if a.shape[-1] > 1 and a.strides[-1] != 1:
        a = cx.contiguous(a, "copy: rows of a factor must be dense")
    columns = b.permute([*range(len(b.shape) - 2), len(b.shape) - 1, len(b.shape) - 2])
    by_rows = b.strides[-1] == 1 and columns.strides[-1] != 1 and item_size(dtype) == 2
    factor = b if by_rows else columns
    if factor.strides[-1] != 1 and factor.shape[-1] > 1:
        factor = cx.contiguous(factor, "copy: columns of a factor must be dense")
    (m, k), n, batch = a.shape[-2:], b.shape[-1], y.shape[:-2]
    kernel = Gemm(
        m, n, k, dtype, matrices(a), matrices(factor), matrices(y), Epilogue(y.dtype),
        Gemm.blocking_for(m, n, math.prod(batch), dtype, cx.target.oldest), batch,
        chunk_of(a, dtype), chunk_of(factor, dtype), by_rows,
    )  # fmt: skip
    cx.call(kernel, a, factor, y, note=note)


def product_dtype(dtype: str, target: CudaTarget) -> str:
    """What factors that lie in memory as `dtype` are multiplied in."""
    return target.matmul if dtype == "float32" else dtype


def padded_rows(weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """A weight [n, k] with as many zeros after each row as make it a multiple of 16 bytes."""
    step = 16 // item_size(dtype)
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % step))


def chunk_of(view: View, dtype: str) -> int:
    """How many elements of rows can be copied at once: all rows begin at a multiple of as many."""
    return math.gcd(aligned_rows(view, 1), 16 // item_size(dtype))


def matrix(cx: CudaLowering, view: View) -> View:
    """The view if its rows are dense and lie evenly, else a copy."""
    return view if lies_evenly(view) else cx.contiguous(view, "copy: the rows of a product must lie evenly")


def lies_evenly(view: View) -> bool:
    """Whether one stride walks all rows of a view, and their elements are dense."""
    if view.shape[-1] > 1 and view.strides[-1] != 1:
        return False
    return one_stride(view.shape[:-1], view.strides[:-1]) is not None


def rows_at(view: View) -> Matrices:
    """Where the rows of one matrix lie: all dimensions but the last are rows, evenly apart."""
    stride = one_stride(view.shape[:-1], view.strides[:-1])
    assert stride is not None
    return Matrices((), stride, aligned_rows(view, 1))


def matrices(view: View) -> Matrices:
    """Where the rows of a batch of matrices lie."""
    return Matrices(view.strides[:-2], view.strides[-2], aligned_rows(view, 1))


def check_linear(node: Node, target: CudaTarget) -> str | None:
    a = arguments(node)
    x, weight = a["x"].meta["val"], a["weight"].meta["val"]
    constant = a["weight"].op == "get_attr"
    if x.dtype not in FLOATS or (weight.dtype not in FLOATS if constant else weight.dtype != x.dtype):
        return f"its operands must be float32, float16 or bfloat16 alike, not {x.dtype} and {weight.dtype}"
    return _empty(node)


def check_matmul(node: Node, target: CudaTarget) -> str | None:
    dtypes = [n.meta["val"].dtype for n in node.all_input_nodes]
    if dtypes[0] not in FLOATS or any(dtype != dtypes[0] for dtype in dtypes):
        return f"its operands must be float32, float16 or bfloat16 alike, not {' and '.join(map(str, dtypes))}"
    return _empty(node)


def _empty(node: Node) -> str | None:
    if any(0 in value.meta["val"].shape for value in (node, *node.all_input_nodes)):
        return "its operands must have elements"
    return None


RULES: dict[Any, OpRule] = {
    fxpress.linear.default: OpRule(linear, check_linear),
    fxpress.narrow_linear.default: OpRule(linear, check_linear),
    aten.matmul.default: OpRule(matmul, check_matmul),
    aten.bmm.default: OpRule(matmul, check_matmul),
    aten.mm.default: OpRule(matmul, check_matmul),
}
