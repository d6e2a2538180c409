"""cp.async: copies from global to shared memory that arrive when their group is waited for.

Between its issue and the wait, nobody may touch what a copy writes; after the wait the thread that issued it may read
it, and all others after a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..accesses import refuse_poison
from ..compiler import Compiler, Expression, intrinsic, name_of
from ..memory import Memory
from ..state import State
from ..threads import Array
from ..violations import InvalidOperand, Misaligned
from .pointers import active_rows, offsets_of, pointer_operand, require_scope

SIZES = {"ca": (4, 8, 16), "cg": (16,)}  # bytes: cached in L1 and L2, or in L2 only


@dataclass
class Copy:
    """A copy under way: by these threads, each in its group, bytes to these offsets."""

    memory: Memory
    rows: Array
    group: Array
    offsets: Array
    values: Array


@intrinsic("ptx.cp_async_ca", "ptx.cp_async_cg", "ptx.cp_async_ca_src_size", "ptx.cp_async_cg_src_size")
def _cp_async(c: Compiler, node: Any) -> Expression:
    """Operands: shared address, global address, bytes, and bytes that are read if fewer: the others become zero."""
    name = name_of(node)
    count = c.expression(node.args[3]) if name.endswith("src_size") else None
    level = "cg" if "_cg" in name else "ca"
    predicate = _predicate(c, node, 4 if count is not None else 3)
    return _copy(c, node.args[0], None, node.args[1], None, int(node.args[2]), level, count, predicate)


def _predicate(c: Compiler, node: Any, operands: int) -> Expression | None:
    """The operand after the named ones, if the call's flags, its last argument, say that it has a predicate."""
    flags = str(node.args[-1].value).split(",")
    return c.expression(node.args[operands]) if "pred" in flags else None


@intrinsic("s_tir.cp_async_raw")
def _cp_async_raw(c: Compiler, node: Any) -> Expression:
    """As TVM's own passes write it: pointers with offsets in elements, then bytes."""
    target, target_offset, source, source_offset, size = node.args[:5]
    level = "cg" if int(size) == 16 else "ca"
    return _copy(c, target, target_offset, source, source_offset, int(size), level, None, None, str(node.ty))


def _copy(
    c: Compiler,
    target: Any,
    target_offset: Any,
    source: Any,
    source_offset: Any,
    size: int,
    level: str,
    count: Expression | None,
    predicate: Expression | None,
    element: str = "int8",
) -> Expression:
    if size not in SIZES[level]:
        c.unknown(f"cp.async.{level} of {size} bytes")
    to, origin = pointer_operand(c, target), pointer_operand(c, source)
    step = np.dtype(element).itemsize if element != "bfloat16" else 2
    shifts = [None if each is None else c.expression(each) for each in (target_offset, source_offset)]
    sites = c.site("copy to"), c.site("copy from")

    def run(s: State) -> None:
        there, here = to(s), origin(s)
        if shifts[0] is not None and shifts[1] is not None:
            there, here = there.moved(shifts[0](s) * step), here.moved(shifts[1](s) * step)
        require_scope(s, there.memory, "shared", "the target of cp.async")
        require_scope(s, here.memory, "global", "the source of cp.async")
        amount = np.broadcast_to(np.asarray(size) if count is None else count(s), (s.batch.size,)).astype(np.int64)
        outer = s.mask
        if predicate is not None:
            s.mask = s.narrowed(np.broadcast_to(predicate(s) != 0, (s.batch.size,)))
        refuse_poison(s, "an operand of cp.async")
        rows = active_rows(s)
        if len(rows):
            _issue(s, there.memory, offsets_of(s, there, rows), here.memory, offsets_of(s, here, rows), amount, size)
            for pointer, site in zip((there, here), sites, strict=True):
                site.record(s, pointer.memory, offsets_of(s, pointer, rows), size, rows)
        s.mask = outer

    return run


def _issue(s: State, target: Memory, to: Array, source: Memory, origin: Array, amount: Array, size: int) -> None:
    rows = active_rows(s)
    amount = amount[rows]
    wrong = (amount < 0) | (amount > size)
    if wrong.any():
        i = int(np.argmax(wrong))
        s.fail(
            InvalidOperand,
            f"bytes that cp.async reads must be 0 to {size}, not {int(amount[i])}",
            "clamp the number",
            int(rows[i]),
        )
    for offsets, memory in ((to, target), (origin, source)):
        if (offsets % size).any():
            i = int(np.argmax(offsets % size != 0))
            s.fail(
                Misaligned,
                f"address of cp.async of {size} bytes in {memory.name} must be a multiple of {size}, "
                f"not {int(offsets[i])}",
                "pad rows to a multiple of the copy, or copy fewer bytes at once",
                int(rows[i]),
            )
    outer = s.mask
    values = np.zeros((len(rows), size), dtype=np.uint8)
    for piece in np.unique(amount[amount > 0]):
        chosen = amount == piece
        s.mask = np.zeros(s.batch.size, dtype=np.bool_)
        s.mask[rows[chosen]] = True
        values[chosen, :piece] = source.read_bytes(s, origin[chosen], int(piece), rows[chosen])
    s.mask = outer
    target.check(s, to, size, aligned=True)
    if target.tracker is not None:
        target.tracker.written(s, target.granules(s, to, size, rows), rows, None, flight=True)
    s.copies.append(Copy(target, rows, s.commits[rows].copy(), to, values))


@intrinsic("ptx.cp_async_commit_group")
def _commit(c: Compiler, node: Any) -> Expression:
    def run(s: State) -> None:
        s.commits[active_rows(s)] += 1

    return run


@intrinsic("ptx.cp_async_wait_group")
def _wait(c: Compiler, node: Any) -> Expression:
    left = int(node.args[0])
    return lambda s: _land(s, left)


@intrinsic("ptx.cp_async_wait_all")
def _wait_all(c: Compiler, node: Any) -> Expression:
    def run(s: State) -> None:
        s.commits[active_rows(s)] += 1
        _land(s, 0)

    return run


def _land(s: State, left: int) -> None:
    """Let copies arrive whose group is not among the `left` newest of their thread."""
    here = s.active()
    remaining = []
    for copy in s.copies:
        arrived = here[copy.rows] & (copy.group < s.commits[copy.rows] - left)
        if arrived.any():
            rows = copy.rows[arrived]
            copy.memory.put_bytes(s, copy.offsets[arrived], copy.values[arrived], rows, landing=True)
        if not arrived.all():
            rest = ~arrived
            remaining.append(
                Copy(copy.memory, copy.rows[rest], copy.group[rest], copy.offsets[rest], copy.values[rest])
            )
    s.copies = remaining
