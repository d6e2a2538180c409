"""Vectors: values of several lanes, [1 or threads, lanes], made and taken apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiler import Compiler, Expression, expression_rule
from .state import State
from .threads import Array


@expression_rule("Ramp")
def _ramp(c: Compiler, node: Any) -> Expression:
    base, stride, lanes = c.expression(node.base), c.expression(node.stride), np.arange(int(node.lanes))

    def run(s: State) -> Array:
        first, step = base(s), stride(s)
        found: Array = first.reshape(-1, 1) + step.reshape(-1, 1) * lanes.astype(first.dtype)
        return found

    return run


@expression_rule("Broadcast")
def _broadcast(c: Compiler, node: Any) -> Expression:
    value, lanes = c.expression(node.value), int(node.lanes)

    def run(s: State) -> Array:
        column = value(s).reshape(-1, 1)
        return np.broadcast_to(column, (column.shape[0], lanes))

    return run


@expression_rule("Shuffle")
def _shuffle(c: Compiler, node: Any) -> Expression:
    """Lanes picked from vectors laid side by side."""
    vectors, indices = [c.expression(each) for each in node.vectors], [int(each) for each in node.indices]

    def run(s: State) -> Array:
        parts = [each(s) for each in vectors]
        parts = [part if part.ndim == 2 else part.reshape(-1, 1) for part in parts]
        rows = max(part.shape[0] for part in parts)
        whole = np.concatenate([np.broadcast_to(part, (rows, part.shape[1])) for part in parts], axis=1)
        picked: Array = whole[:, indices]
        if len(indices) > 1:
            return picked
        return picked[0, 0] if rows == 1 else picked[:, 0]

    return run
