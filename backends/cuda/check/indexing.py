"""Elements of buffers: which one indices name, and how many are accessed at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm

from .compiler import Compiler, Expression, expression_rule
from .state import State
from .threads import Array


@expression_rule("TensorLoad", "BufferLoad")
def _load(c: Compiler, node: Any) -> Expression:
    index = flat_index(c, node.source, node.indices)
    return c.buffer_load(node.source, index, vector_lanes(node.indices[-1], proved=True))


def flat_index(c: Compiler, buffer: Any, indices: Any) -> Expression:
    """The element that indices name, in row-major order or as the buffer's strides say."""
    parts = [c.expression(each) for each in indices]
    start = buffer.elem_offset
    offset = None if start is None or getattr(start, "value", None) == 0 else c.expression(start)
    if len(parts) == 1 and not buffer.strides and offset is None:
        return parts[0]
    if buffer.strides:
        steps = [c.expression(each) for each in buffer.strides]
    else:
        shape = [c.expression(each) for each in buffer.shape]
        steps = [_product(shape[i + 1 :]) for i in range(len(shape))]

    def run(s: State) -> Array:
        total = np.asarray(0) if offset is None else offset(s)
        for part, step in zip(parts, steps, strict=True):
            term = part(s) * step(s)
            if term.ndim == 2 and total.ndim == 1:
                total = total[:, None]
            total = total + (term[:, None] if total.ndim == 2 and term.ndim == 1 else term)
        found: Array = total
        return found

    return run


def _product(factors: list[Expression]) -> Expression:
    def run(s: State) -> Array:
        total = np.asarray(1)
        for each in factors:
            total = total * each(s)
        found: Array = total
        return found

    return run


def vector_lanes(index: Any, proved: bool) -> int:
    """How many elements TVM's code generator accesses at once.

    Stores of consecutive elements always; loads if it is proved that the first is a multiple of their number. Other
    vectors go element by element.
    """
    if type(index).__name__ != "Ramp" or int(getattr(index.stride, "value", 0)) != 1:
        return 1
    lanes = int(index.lanes)
    if proved:
        known = tvm.sym.Analyzer().modular_set(index.base)
        if known.coeff % lanes or known.base % lanes:
            return 1
    return lanes
