"""Lowering rules for CUDA; views, moves of data and elementwise chains have the rules of every machine."""

from __future__ import annotations

from typing import Any

from ...tvm.graph_lowering import OpRule
from ...tvm.lowerings import data_movement, pointwise, view_ops
from . import attention, images, indexing, normalization, products, reduction

RULES: dict[Any, OpRule] = {
    **view_ops.RULES,
    **data_movement.RULES,
    **pointwise.RULES,
    **products.RULES,
    **images.RULES,
    **attention.RULES,
    **indexing.RULES,
    **normalization.RULES,
    **reduction.RULES,
}
