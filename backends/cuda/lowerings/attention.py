"""Attention as two products with a softmax between them; the scores lie in memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ...tvm.graph_lowering import OpRule, dtype_name
from ...tvm.kernels.pointwise_program import Instruction
from ...tvm.lowerings.view_ops import argument
from ...tvm.views import View
from ..kernels.softmax import Softmax
from ..lowering import CudaLowering
from ..target import CudaTarget
from .normalization import FLOATS
from .products import multiply
from .rows import rows_along, vector_of

aten = torch.ops.aten


def attention(node: Node, cx: CudaLowering) -> None:
    query, key, value = (cx.view(n) for n in node.args[:3])
    mask, causal = argument(node, 3, "attn_mask"), argument(node, 5, "is_causal", False)
    scale = argument(node, 6, "scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    out, rank = cx.output(node), len(query.shape)
    batch, shape = out.shape[:-2], (*out.shape[:-1], key.shape[-2])
    scores, masked, shares = cx.temporary(shape), cx.temporary(shape), cx.temporary(shape, query.dtype)
    keys = key.permute([*range(rank - 2), rank - 1, rank - 2])
    multiply(cx, query.expand((*batch, *query.shape[-2:])), keys.expand((*batch, *keys.shape[-2:])), scores, "scores")
    bias = None if mask is None else cx.view(mask).expand(shape)
    _mask(cx, scores, bias, scale, causal, masked)
    rows, written = rows_along(masked, [rank - 1]), rows_along(shares, [rank - 1])
    assert rows is not None
    assert written is not None
    cx.call(Softmax(rows, written, False, vector_of((rows, masked), (written, shares))), masked, shares)
    multiply(cx, shares, value.expand((*batch, *value.shape[-2:])), out)


def _mask(cx: CudaLowering, scores: View, mask: View | None, scale: float, causal: bool, out: View) -> None:
    """Scores times `scale`, plus a mask of numbers; -inf where a mask of bool is false or, `causal`, keys are later."""
    program = [Instruction("input", (), "float32", (0,)), Instruction("constant", (), "float32", (scale,))]

    def add(op: str, *arguments: int, dtype: str = "float32", parameters: tuple[Any, ...] = ()) -> int:
        program.append(Instruction(op, arguments, dtype, parameters))
        return len(program) - 1

    total = add("mul", 0, 1)
    rank = len(scores.shape)
    if mask is not None:
        given = add("input", dtype=mask.dtype, parameters=(1,))
        if mask.dtype == "bool":
            total = add("where", given, total, add("constant", parameters=(-math.inf,)))
        else:
            total = add("add", total, given if mask.dtype == "float32" else add("cast", given))
    if causal:
        row, column = (add("index", dtype="int64", parameters=(rank - d,)) for d in (2, 1))
        seen = add("ge", row, column, dtype="bool")
        total = add("where", seen, total, add("constant", parameters=(-math.inf,)))
    cx.elementwise([scores] if mask is None else [scores, mask], [out], program, [total], "scale and mask")


def check(node: Node, target: CudaTarget) -> str | None:
    query, key, value = (n.meta["val"] for n in node.args[:3])
    if query.dtype not in FLOATS or {key.dtype, value.dtype} != {query.dtype}:
        return f"its operands must be float32, float16 or bfloat16 alike, not {query.dtype}, {key.dtype}, {value.dtype}"
    if argument(node, 7, "enable_gqa", False) and query.shape[-3] != key.shape[-3]:
        return "grouped heads have no kernel"
    if len(query.shape) < 2 or 0 in (*query.shape, *key.shape):
        return "its operands must have elements"
    mask = argument(node, 3, "attn_mask")
    known = ("bool", *(dtype_name(dtype) for dtype in FLOATS))
    if mask is not None and dtype_name(mask.meta["val"].dtype) not in known:
        return f"its mask must be {' or '.join(known)}, not {mask.meta['val'].dtype}"
    return None


RULES: dict[Any, OpRule] = {aten.scaled_dot_product_attention.default: OpRule(attention, check)}
