"""Expressions: arithmetic in the dtype it is written in, variables, and values that only some threads need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm

from .accesses import refuse_poison
from .compiler import INTRINSICS, Compiler, Expression, expression_rule, name_of
from .dtypes import is_float, split
from .state import State
from .threads import Array
from .violations import InvalidOperand

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "LShift": np.left_shift,
    "RShift": np.right_shift,
}


@expression_rule(*BINARY)
def _binary(c: Compiler, node: Any) -> Expression:
    function, a, b = BINARY[type(node).__name__], c.expression(node.a), c.expression(node.b)
    return lambda s: function(a(s), b(s))


@expression_rule("Max", "Min")
def _extreme(c: Compiler, node: Any) -> Expression:
    """`a > b ? a : b`, as our code has it for all dtypes: the second operand where one is NaN."""
    a, b, greater = c.expression(node.a), c.expression(node.b), type(node).__name__ == "Max"

    def run(s: State) -> Array:
        x, y = a(s), b(s)
        return np.where(x > y if greater else x < y, np.asarray(x), np.asarray(y))

    return run


@expression_rule("Div", "Mod", "FloorDiv", "FloorMod")
def _division(c: Compiler, node: Any) -> Expression:
    """Of integers as each name says; a divisor of zero is reported in threads that divide by it."""
    kind, a, b = type(node).__name__, c.expression(node.a), c.expression(node.b)
    if is_float(split(str(node.ty))[0]):
        real: dict[str, Callable[[Any, Any], Any]] = {"Div": np.divide, "Mod": np.fmod}
        if kind not in real:
            c.unknown(f"{kind} of floats")
        return lambda s: real[kind](a(s), b(s))
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "Div": lambda x, y: (x - np.fmod(x, y)) // y,
        "Mod": np.fmod,
        "FloorDiv": np.floor_divide,
        "FloorMod": np.mod,
    }
    function = functions[kind]

    def run(s: State) -> Array:
        divisor = b(s)
        zero = divisor == 0
        if np.any(zero):
            here = np.broadcast_to(zero if zero.ndim < 2 else zero.any(axis=1), (s.batch.size,)) & s.active()
            if here.any():
                row = int(np.argmax(here))
                s.fail(InvalidOperand, "divisor must be other than zero, not 0", "predicate the division", row)
            divisor = np.where(zero, np.ones_like(divisor), divisor)
        found: Array = function(a(s), divisor)
        return found

    return run


@expression_rule("And", "Or")
def _logic(c: Compiler, node: Any) -> Expression:
    """The right side runs in those threads only whose left side does not decide."""
    a, b, conjunction = c.expression(node.a), c.expression(node.b), type(node).__name__ == "And"
    if not _loads(node.b):
        return (lambda s: a(s) & b(s)) if conjunction else (lambda s: a(s) | b(s))

    def run(s: State) -> Array:
        left = a(s)
        refuse_poison(s, "a condition")
        right = masked(s, left if conjunction else ~left, b, np.bool_(not conjunction))
        found: Array = left & right if conjunction else left | right
        return found

    return run


@expression_rule("Not", "BitwiseNot")
def _not(c: Compiler, node: Any) -> Expression:
    a = c.expression(node.a)
    return lambda s: ~a(s)


@expression_rule("Select")
def _select(c: Compiler, node: Any) -> Expression:
    """Both sides run in all threads, one of the values is kept."""
    condition, yes, no = c.expression(node.condition), c.expression(node.true_value), c.expression(node.false_value)

    def run(s: State) -> Array:
        chosen = condition(s)
        before, s.poison = s.poison, None
        first = yes(s)
        poison_first, s.poison = s.poison, None
        second = no(s)
        poison_second, s.poison = s.poison, before
        whole = chosen if chosen.ndim < 2 else chosen.any(axis=1)
        if poison_first is not None:
            s.add_poison(poison_first & whole)
        if poison_second is not None:
            s.add_poison(poison_second & ~(chosen if chosen.ndim < 2 else chosen.all(axis=1)))
        return _where(chosen, first, second)

    return run


def _if_then_else(c: Compiler, node: Any) -> Expression:
    """Each side runs in those threads only that take it."""
    condition, yes, no = (c.expression(each) for each in node.args)

    def run(s: State) -> Any:
        chosen = condition(s)
        refuse_poison(s, "a condition")
        if chosen.ndim == 0:
            return yes(s) if chosen else no(s)
        first, second = masked(s, chosen, yes, None), masked(s, ~chosen, no, None)
        if first is None or second is None:
            return second if first is None else first
        return _where(chosen, first, second)

    return run


INTRINSICS["if_then_else"] = _if_then_else


def masked(s: State, condition: Array, value: Expression, otherwise: Any) -> Any:
    """The value, evaluated in those active threads only where the condition holds; `otherwise` where there are none."""
    whole = condition if condition.ndim < 2 else condition.any(axis=1)
    outer, s.mask = s.mask, s.narrowed(np.broadcast_to(whole, (s.batch.size,)))
    found = value(s) if s.any(s.mask) else otherwise
    s.mask = outer
    return found


def _where(condition: Array, yes: Array, no: Array) -> Array:
    if condition.ndim == 1 and 2 in (yes.ndim, no.ndim):
        condition = condition[:, None]
    found: Array = np.where(condition, yes, no)
    return found


@expression_rule("Cast")
def _cast(c: Compiler, node: Any) -> Expression:
    value, dtype = c.expression(node.value), split(str(node.ty))[0]
    return lambda s: convert(value(s), dtype)


def convert(value: Array, dtype: np.dtype) -> Array:
    """C's conversion; floats become integers as NVIDIA's instructions do it: NaN is 0, what is too large saturates."""
    if value.dtype == dtype:
        return value
    if not is_float(value.dtype) or dtype.kind not in "iu":
        if dtype.kind == "b":
            return np.not_equal(value, 0)
        return value.astype(dtype)
    wide = np.dtype(("uint" if dtype.kind == "u" else "int") + ("64" if dtype.itemsize == 8 else "32"))
    limits = np.iinfo(wide)
    whole = np.trunc(np.nan_to_num(value.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
    inside = np.clip(whole, float(limits.min), np.nextafter(float(limits.max) + 1, 0))
    return inside.astype(wide).astype(dtype)


@expression_rule("IntImm", "FloatImm")
def _constant(c: Compiler, node: Any) -> Expression:
    value = np.asarray(np.float64(node.value) if type(node).__name__ == "FloatImm" else int(node.value))
    constant = value.astype(split(str(node.ty))[0])
    return lambda s: constant


@expression_rule("StringImm")
def _text(c: Compiler, node: Any) -> Expression:
    value = str(node.value)
    return lambda s: value


@expression_rule("Var", "Buffer")
def _variable(c: Compiler, node: Any) -> Expression:
    slot = c.slot(node)

    def run(s: State) -> Any:
        value = s.variables[slot]
        if isinstance(value, tuple):  # bound to a value that depends on an unwritten register
            s.add_poison(value[1])
            return value[0]
        return value

    return run


@expression_rule("Let")
def _let(c: Compiler, node: Any) -> Expression:
    slot, value, body = c.slot(node.var), c.expression(node.value), c.expression(node.body)

    def run(s: State) -> Any:
        s.variables[slot] = value(s)
        return body(s)

    return run


def _loads(node: Any) -> bool:
    """Whether an expression reads memory, or calls what may."""
    kind = type(node).__name__
    if kind in ("TensorLoad", "BufferLoad", "Call"):
        return True
    parts = (getattr(node, name, None) for name in ("a", "b", "value"))
    return any(_loads(part) for part in parts if isinstance(part, tvm.ir.Expr))


@expression_rule("Call")
def _call(c: Compiler, node: Any) -> Expression:
    name = name_of(node)
    rule = INTRINSICS.get(name)
    if rule is None:
        c.unknown(f"intrinsic {name}")
    compiled: Expression = rule(c, node)
    return compiled
