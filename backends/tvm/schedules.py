"""The default schedule of kernels made from TVM's operators, and the check that no loop nest goes without
one."""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import s_tir, tirx

from ...cpu import CpuTarget
from .kernels.loops import LAUNCH_COST, SERIAL

_TREATED = (tirx.ForKind.PARALLEL, tirx.ForKind.VECTORIZED, tirx.ForKind.UNROLLED)


def default_schedule(function: Any, target: CpuTarget) -> Any:
    """Schedule a TIR function made by `te.create_prim_func`; returns it without schedulable blocks.

    Elementwise producers are inlined. Every other block's spatial loops are fused, shared between threads
    when the work pays
    for it and vectorised; a reduction's start value gets its own loop. Blocks with a body of their own
    (sort, scan, scatter)
    keep the loops TVM's operator gave them, declared serial where they are.
    """
    schedule = s_tir.Schedule(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
    root = schedule.get_sblock("root") if _has_root(schedule) else None
    if root is not None:
        for block in schedule.get_child_blocks(root):
            _inline(schedule, block)
        for block in schedule.get_child_blocks(root):
            _schedule_block(schedule, block, target)
    module = tvm.transform.Sequential(
        [
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.CompactBufferAllocation(),
            s_tir.transform.LowerMatchBuffer(),
            s_tir.transform.LowerOpaqueBlock(),
        ]
    )(schedule.mod)
    return module["main"]


def _has_root(schedule: Any) -> bool:
    body = schedule.mod["main"].body
    return isinstance(body, s_tir.SBlockRealize) and body.block.name_hint == "root"


def _inline(schedule: Any, block: Any) -> None:
    if not schedule.get_consumers(block) or any(v.iter_type != 0 for v in schedule.get(block).iter_vars):
        return
    if not schedule.get(block).iter_vars:
        return
    try:
        schedule.compute_inline(block)
    except s_tir.ScheduleError:
        return  # something other than a plain elementwise producer: scheduled as a block of its own


def _schedule_block(schedule: Any, block: Any, target: CpuTarget) -> None:
    loops, kinds = schedule.get_loops(block), [v.iter_type for v in schedule.get(block).iter_vars]
    if not loops or len(loops) != len(kinds):
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != 0]
    extents = [int(schedule.get(loop).extent) for loop in loops]
    total = math.prod(e for e, kind in zip(extents, kinds, strict=True) if kind == 0)
    if not spatial:
        spatial = [schedule.add_unit_loop(loops[0])]
    schedule.reorder(*spatial, *reduced)
    fused = schedule.fuse(*spatial)
    lanes = math.gcd(total, target.vector.lanes)
    outer, inner = schedule.split(fused, [None, lanes])
    schedule.reorder(outer, *reduced, inner)
    if math.prod(extents) >= LAUNCH_COST and total // lanes > 1:
        schedule.parallel(outer)
    elif lanes == 1:
        schedule.annotate(outer, SERIAL, "too little work for threads, of a size no vector divides")
    if lanes > 1:
        schedule.vectorize(inner)
    if reduced:
        start = schedule.decompose_reduction(block, reduced[0])
        if lanes > 1:
            schedule.vectorize(schedule.get_loops(start)[-1])


def unscheduled_loops(module: tvm.IRModule) -> list[str]:
    """Name every loop nest of the module's TIR functions that nobody decided about.

    A nest is decided about when a loop in it is parallel, vectorised, unrolled or declared serial, or its
    code is
    written in vectors.
    """
    return [
        f"{symbol.name_hint}: for {loop.loop_var.name} of {loop.extent}"
        for symbol, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
        for loop in _outermost_loops(function.body)
        if not _decided(loop)
    ]


def _outermost_loops(statement: Any) -> list[Any]:
    if isinstance(statement, tirx.For):
        return [statement]
    return [loop for child in _children(statement) for loop in _outermost_loops(child)]


def _decided(loop: Any) -> bool:
    if isinstance(loop, tirx.For) and (loop.kind in _TREATED or SERIAL in (loop.annotations or {})):
        return True
    if isinstance(loop, tirx.BufferStore) and any(i.ty.dtype.lanes > 1 for i in loop.indices):
        return True
    return any(_decided(child) for child in _children(loop))


def _children(statement: Any) -> list[Any]:
    if isinstance(statement, tirx.SeqStmt):
        return list(statement.seq)
    if isinstance(statement, tirx.IfThenElse):
        return [x for x in (statement.then_case, statement.else_case) if x is not None]
    if isinstance(statement, s_tir.SBlockRealize):
        return [statement.block.body]
    return [statement.body] if hasattr(statement, "body") and statement.body is not None else []


def declare_serial(statement: Any, reason: str) -> Any:
    """The statement with its undecided outermost loops declared serial; a loop of one turn decides nothing."""
    if isinstance(statement, tirx.For):
        single = isinstance(statement.extent, tirx.IntImm) and int(statement.extent) == 1
        if _decided(statement) and not single:
            return statement
        return tirx.For(
            statement.loop_var,
            statement.min,
            statement.extent,
            statement.kind,
            declare_serial(statement.body, reason) if single else statement.body,
            statement.thread_binding,
            {**dict(statement.annotations or {}), SERIAL: reason},
        )
    if (
        isinstance(statement, tirx.AttrStmt) and statement.attr_key == "pragma_scope"
    ):  # TVM's, unknown to its own LLVM part
        return declare_serial(statement.body, reason)
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([declare_serial(child, reason) for child in statement.seq])
    if isinstance(statement, tirx.IfThenElse):
        cases = [None if c is None else declare_serial(c, reason) for c in (statement.then_case, statement.else_case)]
        return tirx.IfThenElse(statement.condition, *cases)
    return statement


def in_order(statement: Any, reason: str) -> Any:
    """The statement with its outermost loops, parallel or not, declared serial."""
    if isinstance(statement, tirx.For):
        annotations = {**dict(statement.annotations or {}), SERIAL: reason}
        rest = statement.body, statement.thread_binding, annotations
        return tirx.For(statement.loop_var, statement.min, statement.extent, tirx.ForKind.SERIAL, *rest)
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([in_order(child, reason) for child in statement.seq])
    if (
        isinstance(statement, tirx.AttrStmt) and statement.attr_key == "pragma_scope"
    ):  # TVM's, unknown to its own LLVM part
        return in_order(statement.body, reason)
    return statement
