"""Additions that other threads cannot come between, and loads through the read-only path."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..accesses import refuse_poison
from ..compiler import Compiler, Expression, intrinsic
from ..dtypes import split
from ..memory import Pointer
from ..state import State
from ..threads import Array
from ..violations import Misaligned
from .pointers import active_rows, offsets_of, pointer_operand


@intrinsic("cuda.atomic_add", "atomic_add")
def _atomic_add(c: Compiler, node: Any) -> Expression:
    """Operands: address, value. Gives what was there; threads add in the order of their numbers."""
    pointer, value, dtype = pointer_operand(c, node.args[0]), c.expression(node.args[1]), split(str(node.args[1].ty))[0]

    def run(s: State) -> Array:
        to, added = pointer(s), np.broadcast_to(value(s), (s.batch.size,))
        refuse_poison(s, "an operand of an atomic")
        rows = active_rows(s)
        offsets = offsets_of(s, to, rows)
        to.memory.check(s, offsets, dtype.itemsize, aligned=True)
        if to.memory.tracker is not None:
            to.memory.tracker.require_written(s, to.memory.granules(s, offsets, dtype.itemsize, rows), rows)
        flat, per_row = to.memory.flat(dtype)
        row = to.memory.row_of(s, rows)
        at = offsets // dtype.itemsize + (0 if isinstance(row, int) else row * per_row)
        before = np.zeros(s.batch.size, dtype=dtype)
        for thread, element in zip(rows, at, strict=True):
            before[thread] = flat[element]
            flat[element] = before[thread] + added[thread]
        return before

    return run


@intrinsic("cuda.ldg")
def _ldg(c: Compiler, node: Any) -> Expression:
    """Operand: an address of global memory. Raises for a memory that the kernel itself writes."""
    pointer, (dtype, lanes) = pointer_operand(c, node.args[0]), split(str(node.ty))
    width = dtype.itemsize * lanes

    def run(s: State) -> Array:
        source: Pointer = pointer(s)
        rows = active_rows(s)
        offsets = offsets_of(s, source, rows)
        if (offsets % width).any():
            i = int(np.argmax(offsets % width != 0))
            s.fail(
                Misaligned,
                f"address of ldg of {width} bytes must be a multiple of {width}, not {int(offsets[i])}",
                "load narrower vectors",
                int(rows[i]),
            )
        out = np.zeros((s.batch.size, lanes), dtype=dtype)
        out[rows] = source.memory.read_bytes(s, offsets, width, rows).view(dtype).reshape(len(rows), lanes)
        return out if lanes > 1 else out[:, 0]

    return run
