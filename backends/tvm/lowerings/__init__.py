"""Lowering rules: for each op, how its node becomes kernel calls. One family a file; this table is their union."""

from __future__ import annotations

from typing import Any

from ..lowering import OpRule
from . import (
    attention,
    convolution,
    data_movement,
    indexing,
    integer_layers,
    linear,
    low_precision,
    matmul,
    narrow,
    normalization,
    pointwise,
    pooling,
    quantized,
    recurrent,
    reduction,
    resizing,
    sorting,
    sparse_weights,
    tvm_operators,
    view_ops,
    weights,
)

RULES: dict[Any, OpRule] = {
    **view_ops.RULES,
    **data_movement.RULES,
    **convolution.RULES,
    **linear.RULES,
    **low_precision.RULES,
    **integer_layers.RULES,
    **attention.RULES,
    **tvm_operators.RULES,
    **indexing.RULES,
    **resizing.RULES,
    **pooling.RULES,
    **quantized.RULES,
    **recurrent.RULES,
    **normalization.RULES,
    **reduction.RULES,
    **matmul.RULES,
    **narrow.RULES,
    **sorting.RULES,
    **pointwise.RULES,
    **weights.RULES,
    **sparse_weights.RULES,
}
