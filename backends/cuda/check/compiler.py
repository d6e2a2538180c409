"""From a node of TIR to a Python function of the state, by the node's class: what the rules share.

An expression becomes a function that gives its value for all threads: NumPy arrays, () where all threads have the
same, [threads], or [1 or threads, lanes] for vectors. A statement becomes a function that gives nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from .accesses import load, store
from .dtypes import split
from .memory import Pointer, SharedWindow
from .state import State
from .threads import Array
from .traffic import Site
from .violations import Place, UnknownConstruct

Expression = Callable[[State], Any]
Statement = Callable[[State], None]

Rule = Callable[["Compiler", Any], Any]  # gives an Expression or a Statement

EXPRESSIONS: dict[str, Rule] = {}
STATEMENTS: dict[str, Rule] = {}
INTRINSICS: dict[str, Rule] = {}


def expression_rule(*classes: str) -> Callable[[Rule], Rule]:
    """Say that a function compiles expressions of these classes."""

    def add(rule: Rule) -> Rule:
        EXPRESSIONS.update(dict.fromkeys(classes, rule))
        return rule

    return add


def statement_rule(*classes: str) -> Callable[[Rule], Rule]:
    """Say that a function compiles statements of these classes."""

    def add(rule: Rule) -> Rule:
        STATEMENTS.update(dict.fromkeys(classes, rule))
        return rule

    return add


def intrinsic(*names: str) -> Callable[[Rule], Rule]:
    """Say that a function compiles calls of these intrinsics, named as `name_of` does."""

    def add(rule: Rule) -> Rule:
        INTRINSICS.update(dict.fromkeys(names, rule))
        return rule

    return add


class Compiler:
    """One kernel on its way to Python functions: its variables, allocations and access sites.

    `functions` are definitions of external functions, by name.
    """

    def __init__(self, function: Any, name: str, functions: dict[str, Callable[..., Any]]) -> None:
        self.function = function
        self.name = name
        self.functions = functions
        self.slots: dict[Any, int] = {}
        self.allocations: list[tuple[int, Any]] = []  # slot and buffer
        self.threads: dict[int, str] = {}  # slot of a thread index and its tag
        self.extents: list[tuple[str, Expression]] = []  # tags and how many threads or blocks
        self.views: dict[int, int] = {}  # slot of a buffer or pointer, and of the one that it points into
        self.items: dict[int, int] = {}  # slot of a buffer and the bytes of its elements
        self.loaded: set[int] = set()
        self.stored: set[int] = set()
        self.window = SharedWindow()  # of the batch that is evaluated
        self.sites: list[Site] = []
        self.exits = 0  # statements so far that leave a loop or the kernel
        self.statement: Any = None  # under compilation

    def slot(self, variable: Any) -> int:
        """The position of a variable in `State.variables`."""
        return self.slots.setdefault(variable, len(self.slots))

    def expression(self, node: Any) -> Expression:
        rule = EXPRESSIONS.get(type(node).__name__)
        if rule is None:
            self.unknown(f"expression {type(node).__name__}")
        compiled: Expression = rule(self, node)
        return compiled

    def statement_of(self, node: Any) -> Statement:
        rule = STATEMENTS.get(type(node).__name__)
        if rule is None:
            self.unknown(f"statement {type(node).__name__}", node)
        self.statement = node
        compiled: Statement = rule(self, node)
        return compiled

    def locate(self, statement: Any) -> tuple[str, int, str]:
        """The kernel, the line of its text (from 1) and that line."""
        if statement is None:
            return self.name, 0, "at its launch"
        plain = self.function.script().splitlines()
        lines = self.function.script(obj_to_underline=[statement]).splitlines()
        lines = lines[lines.index(plain[0]) :]  # after a heading
        for i, line in enumerate(lines):
            if _underline(line):
                return self.name, i, lines[i - 1].strip()  # no underline comes before
        return self.name, 0, str(statement).splitlines()[0]

    def unknown(self, what: str, statement: Any = None) -> NoReturn:
        """Raise UnknownConstruct."""
        kernel, line, text = self.locate(statement or self.statement)
        raise UnknownConstruct(
            f"{what} must be one that the evaluator defines",
            "define it in fxpress.backends.cuda.check, or pass external functions as functions={name: function}",
            Place(kernel, line, text),
        )

    # ---- memory

    def root(self, slot: int) -> int:
        """The allocation or parameter that a buffer or pointer points into."""
        while slot in self.views:
            slot = self.views[slot]
        return slot

    def view(self, slot: int, pointer: Any) -> None:
        """Note that what is at `slot` points where an expression says."""
        if type(pointer).__name__ in ("Var", "Buffer"):
            self.views[slot] = self.slot(pointer)
            return
        for each in [*getattr(pointer, "args", []), getattr(pointer, "source", None)]:
            if type(each).__name__ in ("Var", "Buffer", "Call", "TensorLoad"):
                self.view(slot, each)
                return

    def site(self, kind: str) -> Site:
        """A place in the text that accesses memory."""
        site = Site(self.statement, kind)
        self.sites.append(site)
        return site

    def buffer_load(self, buffer: Any, index: Expression, vector: int) -> Expression:
        """Loads of a buffer's elements; one whose dtype is a vector holds that many elements."""
        slot, dtype, lanes = self.slot(buffer), *split(str(buffer.dtype))
        self.loaded.add(slot)
        site = self.site("load")
        span = np.arange(lanes)

        def run(s: State) -> Array:
            pointer: Pointer = s.variables[slot]
            at = _spread(index(s), lanes, span)
            return load(s, pointer.memory, dtype, _moved(pointer, at, dtype), vector * lanes, site)

        return run

    def buffer_store(self, buffer: Any, index: Expression, value: Expression, vector: int) -> Statement:
        slot, dtype, lanes = self.slot(buffer), *split(str(buffer.dtype))
        self.stored.add(slot)
        site = self.site("store")
        span = np.arange(lanes)

        def run(s: State) -> None:
            pointer: Pointer = s.variables[slot]
            at = _spread(index(s), lanes, span)
            store(s, pointer.memory, dtype, _moved(pointer, at, dtype), value(s), vector * lanes, site)

        return run


def _underline(line: str) -> bool:
    return bool(line.strip()) and set(line.strip()) == {"^"}


def name_of(call: Any) -> str:
    """The name of what a call calls, without the namespaces "tirx." and "prim."."""
    return str(getattr(call.op, "name", call.op)).removeprefix("tirx.").removeprefix("prim.")


def _spread(index: Array, lanes: int, span: Array) -> Array:
    """The elements of vectors: [1 or threads, lanes] from the index of each vector."""
    if lanes == 1:
        return index
    if index.ndim == 2:
        return (index[:, :, None] * lanes + span).reshape(index.shape[0], -1)
    found: Array = index.reshape(-1, 1) * lanes + span
    return found


def _moved(pointer: Pointer, index: Array, dtype: np.dtype) -> Array:
    """The index from the start of the memory."""
    offset = pointer.offset
    if offset.ndim == 0 and offset == 0:
        return index
    start = offset // dtype.itemsize
    return index + (start[:, None] if start.ndim and index.ndim == 2 else start)
