"""Statements: order, conditions and loops that may differ between threads, stores, allocations."""

from __future__ import annotations

from typing import Any

import numpy as np

from .accesses import refuse_poison
from .compiler import Compiler, Statement, intrinsic, name_of, statement_rule
from .dtypes import split
from .indexing import flat_index, vector_lanes
from .memory import Pointer
from .state import State
from .threads import Array
from .violations import InvalidOperand

MAX_TURNS = 1_000_000  # of a loop whose end depends on values: more is taken for a loop that never ends
IGNORED_ATTRIBUTES = ("storage_alignment", "reduce_scope", "device_scope", "compute_scope", "realize_scope")


@statement_rule("SeqStmt")
def _sequence(c: Compiler, node: Any) -> Statement:
    steps = [_body(c, each) for each in node.seq]
    if not any(leaves for _, leaves in steps):
        parts = [step for step, _ in steps]

        def straight(s: State) -> None:
            for step in parts:
                step(s)

        return straight

    def run(s: State) -> None:
        outer = s.mask
        for step, leaves in steps:
            step(s)
            if leaves:
                s.mask = s.left(s.mask)
                if not s.any(s.mask):
                    break
        s.mask = outer

    return run


def _body(c: Compiler, node: Any) -> tuple[Statement, bool]:
    """A statement, and whether threads may leave a loop or the kernel in it."""
    before = c.exits
    compiled = c.statement_of(node)
    return compiled, c.exits > before


@statement_rule("IfThenElse")
def _if(c: Compiler, node: Any) -> Statement:
    condition, yes = c.expression(node.condition), c.statement_of(node.then_case)
    no = c.statement_of(node.else_case) if node.else_case is not None else None

    def run(s: State) -> None:
        s.statement, s.poison = node, None
        chosen = condition(s)
        refuse_poison(s, "a condition")
        outer = s.mask
        if chosen.ndim == 0:
            taken = yes if chosen else no
            if taken is not None:
                taken(s)
            return
        s.mask = s.narrowed(chosen)
        if s.any(s.mask):
            yes(s)
        if no is not None:
            s.mask = outer
            s.mask = s.narrowed(~chosen)
            if s.any(s.mask):
                no(s)
        s.mask = outer

    return run


@statement_rule("For")
def _for(c: Compiler, node: Any) -> Statement:
    slot, start, extent = c.slot(node.loop_var), c.expression(node.min), c.expression(node.extent)
    step = c.expression(node.step) if node.step is not None else None
    body, leaves = _body(c, node.body)

    def run(s: State) -> None:
        s.statement, s.poison = node, None
        first, count = start(s), extent(s)
        stride = np.asarray(1, dtype=first.dtype) if step is None else step(s)
        refuse_poison(s, "the bound of a loop")
        outer = s.mask
        enter = _enter(s) if leaves else None
        active = count[s.active()] if count.ndim else count
        for turn in range(int(np.max(active, initial=0))):
            if count.ndim:
                s.mask = outer
                s.mask = s.narrowed(turn < count)
            else:
                s.mask = outer
            if enter is not None:
                s.continued = None
                s.mask = s.left(s.mask)
            if not s.any(s.mask):
                break
            s.variables[slot] = (first + stride * turn).astype(first.dtype)
            body(s)
        if enter is not None:
            s.continued, s.broken = enter
        s.mask = outer

    return run


@statement_rule("While")
def _while(c: Compiler, node: Any) -> Statement:
    condition, body = c.expression(node.condition), c.statement_of(node.body)

    def run(s: State) -> None:
        outer, enter = s.mask, _enter(s)
        for _ in range(MAX_TURNS):
            s.statement, s.poison = node, None
            chosen = condition(s)
            refuse_poison(s, "a condition")
            s.mask = s.narrowed(np.broadcast_to(chosen, (s.batch.size,)))
            if not s.any(s.mask):
                break
            body(s)
            s.continued = None
            s.mask = s.left(s.mask)
        else:
            s.fail(
                InvalidOperand,
                f"a loop must end within {MAX_TURNS} turns, not go on",
                "threads that wait for each other are not evaluated: use a barrier",
                int(np.argmax(s.active())),
            )
        s.continued, s.broken = enter
        s.mask = outer

    return run


def _enter(s: State) -> tuple[Array | None, Array | None]:
    """Begin a loop: none of its threads has left it. The caller restores what is returned."""
    outer = s.continued, s.broken
    s.continued = s.broken = None
    return outer


EXITS = {
    "Break": "broken",
    "Continue": "continued",
    "Return": "returned",
    "break_loop": "broken",
    "continue_loop": "continued",
    "thread_return": "returned",
}


def _exit(c: Compiler, node: Any) -> Statement:
    """Active threads leave: the turn of the loop, the loop or the kernel."""
    c.exits += 1
    name = EXITS[name_of(node) if type(node).__name__ == "Call" else type(node).__name__]

    def run(s: State) -> None:
        before = getattr(s, name)
        setattr(s, name, s.active().copy() if before is None else before | s.active())

    return run


statement_rule("Break", "Continue", "Return")(_exit)
intrinsic("break_loop", "continue_loop", "thread_return")(_exit)


@statement_rule("Evaluate")
def _evaluate(c: Compiler, node: Any) -> Statement:
    value = c.expression(node.value)

    def run(s: State) -> None:
        s.statement, s.poison = node, None
        value(s)

    return run


@statement_rule("BufferStore")
def _store(c: Compiler, node: Any) -> Statement:
    index = flat_index(c, node.buffer, node.indices)
    put = c.buffer_store(node.buffer, index, c.expression(node.value), vector_lanes(node.indices[-1], proved=False))

    def run(s: State) -> None:
        s.statement, s.poison = node, None
        put(s)

    return run


@statement_rule("Bind")
def _bind(c: Compiler, node: Any) -> Statement:
    slot, value = c.slot(node.var), c.expression(node.value)
    if "handle" in str(node.var.ty):
        c.view(slot, node.value)

    def run(s: State) -> None:
        s.statement, s.poison = node, None
        found = value(s)
        s.variables[slot] = found if s.poison is None else (found, s.poison)

    return run


@statement_rule("AssertStmt")
def _assert(c: Compiler, node: Any) -> Statement:
    condition = c.expression(node.condition)

    def run(s: State) -> None:
        s.statement, s.poison = node, None
        failed = s.narrowed(np.broadcast_to(~condition(s), (s.batch.size,)))
        if s.any(failed):
            row = 0 if failed is None else int(np.argmax(failed))
            s.fail(InvalidOperand, "an assertion must hold, not fail", "see its condition", row)

    return run


# ---- names


@statement_rule("AttrStmt")
def _attribute(c: Compiler, node: Any) -> Statement:
    key = str(node.attr_key)
    if key == "thread_extent":
        c.threads[c.slot(node.node.var)] = str(node.node.thread_tag)
        c.extents.append((str(node.node.thread_tag), c.expression(node.value)))
    elif key not in IGNORED_ATTRIBUTES and not key.startswith(("pragma_", "tirx.", "tir.")):
        c.unknown(f"attribute {key}", node)
    return c.statement_of(node.body)


@statement_rule("DeclBuffer")
def _declare(c: Compiler, node: Any) -> Statement:
    slot, data = c.slot(node.buffer), c.expression(node.data)
    c.view(slot, node.data)
    c.items[slot] = split(str(node.buffer.dtype))[0].itemsize

    def run(s: State) -> None:
        s.statement = node
        s.variables[slot] = data(s)

    return run


@statement_rule("AllocBuffer")
def _allocate(c: Compiler, node: Any) -> Statement:
    slot, scope = c.slot(node.buffer), str(node.buffer.scope())
    c.allocations.append((slot, node.buffer))
    c.items[slot] = split(str(node.buffer.dtype))[0].itemsize

    def run(s: State) -> None:
        if scope == "local":
            pointer: Pointer = s.variables[slot]
            pointer.memory.forget()

    return run
