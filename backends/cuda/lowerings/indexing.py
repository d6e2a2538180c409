"""Embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ...tvm.graph_lowering import OpRule
from ...tvm.views import ITEM_SIZES
from ..kernels.base import ACCESS
from ..kernels.lookup import Lookup
from ..lowering import CudaLowering, aligned_rows
from ..target import CudaTarget

aten = torch.ops.aten


def embedding(node: Node, cx: CudaLowering) -> None:
    table, ids, out = cx.contiguous(node.args[0]), cx.contiguous(node.args[1]), cx.output(node)
    rows, inner = table.shape
    widest = ACCESS // ITEM_SIZES[table.dtype]
    vector = math.gcd(aligned_rows(table, 1), aligned_rows(out, 1), inner, widest)
    cx.call(Lookup(rows, inner, ids.elements, ids.dtype, table.dtype, vector), table, ids, out)


def check(node: Node, target: CudaTarget) -> str | None:
    ids = node.args[1].meta["val"].dtype
    if ids not in (torch.int32, torch.int64):
        return f"its indices must be int32 or int64, not {ids}"
    return "its table must have elements" if 0 in node.args[0].meta["val"].shape else None


RULES: dict[Any, OpRule] = {aten.embedding.default: OpRule(embedding, check)}
