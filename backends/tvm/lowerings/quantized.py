"""Quantised ops that have no weights: functions by table, requantisation, embeddings, products, pools."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ....cpu import CpuTarget
from ..kernels.embedding import IntegerLookup
from ..kernels.integer_matmul import IntegerMatMul
from ..kernels.pool import Average, Window, pool_kernel
from ..kernels.requantization import Numbers, Requantization
from ..kernels.table import ENTRIES, Table
from ..lowering import Lowering, OpRule
from ..placement import BIAS
from .matmul import as_matrices, matrix_of
from .pooling import channels_first
from .quantized_checks import check_quantized

fxpress = torch.ops.fxpress

_MOST_PRODUCT = 255 * 255  # of two integers less their zero points
_INTEGERS = torch.arange(-128, 128).to(torch.int8)


def lookup(node: Node, cx: Lowering) -> None:
    table = cx.constant_tensor(node.args[1])
    assert table is not None
    _look_up(node, cx, table)


def requantize(node: Node, cx: Lowering) -> None:
    """One value in, one out: a table made by the definition itself."""
    _look_up(node, cx, node.target(_INTEGERS, *node.args[1:]))


def _look_up(node: Node, cx: Lowering, table: torch.Tensor) -> None:
    """Integer q is held as q + 128, which is its place in the table; the entries are biased too."""
    x, y = cx.biased(node.args[0]), cx.output(node, strided=True, biased=True)
    entries = cx.constant((table.to(torch.int16) + BIAS).to(torch.uint8))
    cx.call(Table.choose(x.shape, x.strides, y.strides, cx.target), x, entries, y)


def check_lookup(node: Node, target: CpuTarget) -> str | None:
    reason = check_quantized(x=torch.int8, table=torch.int8)(node, target)
    table = node.args[1]
    if reason is None and table.op != "get_attr":
        return "its table must be a constant"
    if reason is None and tuple(table.meta["val"].shape) != (ENTRIES,):
        return f"its table must have shape ({ENTRIES},), not {tuple(table.meta['val'].shape)}"
    return reason


def embedding(node: Node, cx: Lowering) -> None:
    weight, scale, indices = (cx.contiguous(n) for n in node.args)
    out = cx.output(node)
    rows, inner = weight.shape
    kernel = IntegerLookup.choose(rows, inner, indices.elements, indices.dtype, cx.target)
    cx.call(kernel, weight, scale, indices, out)


def max_pool(node: Node, cx: Lowering) -> None:
    """The border of -128 is 0 where the integers are biased, and so is never the largest."""
    a = arguments(node)
    _pool(node, cx, "max", (a["kernel"], a["stride"], a["padding"], a["dilation"]), None)


def avg_pool(node: Node, cx: Lowering) -> None:
    a = arguments(node)
    factor = a["x_scale"] / (a["y_scale"] * math.prod(a["kernel"]))
    average = Average(a["x_zero"] + BIAS, factor, a["y_zero"], a["low"], a["high"], a["mode"])
    _pool(node, cx, "avg", (a["kernel"], a["stride"], a["padding"]), average)


def matmul(node: Node, cx: Lowering) -> None:
    """quantized_matmul and quantized_matmul_float."""
    x = arguments(node)
    a, b = cx.biased(x["a"]), cx.biased(x["b"])
    y = cx.output(node, strided=True, biased="mode" in x)
    a, b, out = as_matrices(a, b, y)
    m, n, k = (*out.shape[-2:], a.shape[-1])
    factor = torch.tensor([x["a_scale"]], dtype=torch.float64) * x["b_scale"]
    numbers, results = Numbers(factor), Requantization(mode="float", channels=1)
    if "mode" in x:
        numbers = Numbers(factor / x["y_scale"], x["y_zero"], x["low"], x["high"])
        results = Requantization.choose(x["mode"], numbers, k * _MOST_PRODUCT)
    kernel = IntegerMatMul.choose(
        out.shape[:-2], m, n, k,
        a=matrix_of(a), b=matrix_of(b), y=matrix_of(out), results=results, b_zero=x["b_zero"] != 0, target=cx.target,
    )  # fmt: skip
    zeros = kernel.pack_zeros(x["a_zero"], x["b_zero"], k)
    cx.call(kernel, a, b, *map(cx.constant, (zeros, *results.pack(numbers))), y)


def check_matmul(node: Node, target: CpuTarget) -> str | None:
    reason = check_quantized(a=torch.int8, b=torch.int8)(node, target)
    depth = node.args[0].meta["val"].shape[-1]
    if reason is None and depth * _MOST_PRODUCT >= 2**31:
        return f"its depth must be less than {2**31 // _MOST_PRODUCT}, not {depth}: sums must fit 32 bits"
    return reason


def _pool(node: Node, cx: Lowering, op: str, sizes: Any, average: Average | None) -> None:
    last = arguments(node)["channels_last"]
    x, out = cx.biased(node.args[0]), cx.output(node, strided=True, biased=True)
    source, target = channels_first(x, last), channels_first(out, last)
    windows = [Window(*size) for size in zip(*sizes, strict=True)]
    kernel = pool_kernel(
        op, source.shape, target.shape[2:], windows, source.strides, target.strides, cx.target,
        dtype="uint8", average=average,
    )  # fmt: skip
    cx.call(kernel, source, target)


RULES: dict[Any, OpRule] = {
    fxpress.lookup.default: OpRule(lookup, check_lookup),
    fxpress.requantize.default: OpRule(requantize, check_quantized(x=torch.int8)),
    fxpress.quantized_embedding.default: OpRule(embedding, check_quantized(weight=torch.int8, scale=torch.float32)),
    fxpress.quantized_matmul.default: OpRule(matmul, check_matmul),
    fxpress.quantized_matmul_float.default: OpRule(matmul, check_matmul),
    fxpress.quantized_max_pool.default: OpRule(max_pool, check_quantized(x=torch.int8)),
    fxpress.quantized_avg_pool.default: OpRule(avg_pool, check_quantized(x=torch.int8)),
}
