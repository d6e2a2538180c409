"""Functions of numbers, and of their bits: TIR's intrinsics, and CUDA's functions by the names they have in C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from ..compiler import Compiler, Expression, intrinsic, name_of
from ..dtypes import compute, is_float, split
from ..expressions import convert
from ..state import State
from ..threads import Array
from .ptx import TF32_BITS, decode, unary

Function = Callable[..., Any]


def _round(x: Array) -> Array:
    """C's round: halves go away from zero."""
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


FUNCTIONS: dict[str, Function] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "exp10": lambda x: np.power(10.0, x),
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "rcp": lambda x: 1 / x,
    "cbrt": np.cbrt,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": special.erf,
    "erfc": special.erfc,
    "sigmoid": special.expit,
    "lgamma": lambda x: np.where(np.isinf(x), np.inf, special.gammaln(x)),
    "pow": np.power,
    "fabs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": _round,
    "nearbyint": np.rint,
    "rint": np.rint,
    "fmod": np.fmod,
    "hypot": np.hypot,
    "copysign": np.copysign,
    "fmax": np.fmax,
    "fmin": np.fmin,
    "fma": lambda a, b, c: a * b + c,
    "fdividef": lambda a, b: a / b,
}
TESTS: dict[str, Function] = {"isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite}


def _in_wide(function: Function, result: np.dtype) -> Function:
    """The function of values of a dtype, computed in a wider one and rounded once."""
    wide = np.dtype(np.float64) if result.itemsize >= 4 else compute(result)

    def run(*values: Array) -> Array:
        return np.asarray(function(*(value.astype(wide) for value in values))).astype(result)

    return run


def _mathematics(c: Compiler, node: Any) -> Expression:
    name = name_of(node)
    return _apply(c, FUNCTIONS[name], node.args, split(str(node.ty))[0])


def _apply(c: Compiler, function: Function, nodes: Any, result: np.dtype) -> Expression:
    values = [c.expression(each) for each in nodes]
    wide = _in_wide(function, result) if is_float(result) else function

    def run(s: State) -> Array:
        found: Array = wide(*(each(s) for each in values))
        return found

    return run


intrinsic(*FUNCTIONS)(_mathematics)


@intrinsic(*TESTS)
def _test(c: Compiler, node: Any) -> Expression:
    function, value = TESTS[name_of(node)], c.expression(node.args[0])
    return lambda s: function(value(s))


@intrinsic("nextafter")
def _next_after(c: Compiler, node: Any) -> Expression:
    a, b = (c.expression(each) for each in node.args)
    return lambda s: np.nextafter(a(s), b(s))


@intrinsic("likely", "tvm_thread_invariant")
def _same(c: Compiler, node: Any) -> Expression:
    return c.expression(node.args[0])


# ---- bits


@intrinsic("reinterpret", "cuda.uint_as_float", "cuda.float_as_uint")
def _reinterpret(c: Compiler, node: Any) -> Expression:
    """The same bits as another dtype, with as many lanes as fit."""
    value, (dtype, lanes) = c.expression(node.args[0]), split(str(node.ty))

    def run(s: State) -> Array:
        own = value(s)
        rows = own if own.ndim == 2 else own.reshape(-1, 1)
        bits = np.ascontiguousarray(rows).view(dtype)
        if lanes > 1 or (own.ndim == 2 and bits.shape[1] > 1):
            return bits
        return bits[0, 0] if own.ndim == 0 else bits[:, 0]

    return run


@intrinsic("popcount", "ctpop", "clz")
def _count_bits(c: Compiler, node: Any) -> Expression:
    value, dtype, ones = c.expression(node.args[0]), split(str(node.ty))[0], name_of(node) != "clz"

    def run(s: State) -> Array:
        own = np.asarray(value(s))
        unsigned = own.view(f"u{own.dtype.itemsize}").astype(np.uint64)
        if ones:
            return np.bitwise_count(unsigned).astype(dtype)
        width = own.dtype.itemsize * 8
        found: Array = np.where(unsigned == 0, width, width - 1 - np.floor(np.log2(np.maximum(unsigned, 1))))
        return found.astype(dtype)

    return run


# ---- external functions


def _dp4a(a: Array, b: Array, c: Array) -> Array:
    """c and the sum of the products of four bytes each."""
    bytes_of = [np.ascontiguousarray(x).reshape(-1, 1).view(np.int8).astype(np.int32) for x in (a, b)]
    total = (bytes_of[0] * bytes_of[1]).sum(axis=1, dtype=np.int32)
    found: Array = (total + c).astype(np.int32).reshape(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c)))
    return found


EXTERNALS: dict[str, Function] = {
    "__dp4a": _dp4a,
    "nextafterf": np.nextafter,
    "nextafter": np.nextafter,
}


def _external(c: Compiler, name: str, nodes: Any, node: Any) -> Expression:
    """A function by its name in C: given to the evaluator, CUDA's own, or one of `FUNCTIONS` with C's prefixes."""
    values = [c.expression(each) for each in nodes]
    known = c.functions.get(name) or EXTERNALS.get(name)
    if known is not None:
        return lambda s: known(*(each(s) for each in values))
    plain = name.removeprefix("__")
    for base in (plain, plain.removesuffix("f"), plain.removeprefix("h"), plain.removeprefix("h2")):
        if base in FUNCTIONS:
            return _apply(c, FUNCTIONS[base], nodes, split(str(node.ty))[0])
        if base in TESTS:
            return lambda s: TESTS[base](values[0](s))
    c.unknown(f"external function {name}")


@intrinsic("call_extern", "call_pure_extern")
def _call_extern(c: Compiler, node: Any) -> Expression:
    return _external(c, str(node.args[0].value), node.args[1:], node)


@intrinsic("cuda.func_call")
def _func_call(c: Compiler, node: Any) -> Expression:
    """Operands: name, arguments, source. The source is not read: the function's definition must be given."""
    return _external(c, str(node.args[0].value), node.args[1:-1], node)


@intrinsic("cuda.half2float", "cuda.bfloat162float")
def _widen(c: Compiler, node: Any) -> Expression:
    value = c.expression(node.args[0])
    return lambda s: convert(value(s), np.dtype(np.float32))


@intrinsic("cuda.fdividef")
def _fast_division(c: Compiler, node: Any) -> Expression:
    return _apply(c, FUNCTIONS["fdividef"], node.args, np.dtype(np.float32))


@intrinsic("ptx.ex2", "ptx.tanh", "ptx.rcp", "ptx.lg2", "ptx.sqrt", "ptx.rsqrt", "ptx.fma", "ptx.dp4a")
def _instruction(c: Compiler, node: Any) -> Expression:
    name = name_of(node).removeprefix("ptx.")
    if name == "dp4a":
        return unary(c, node, _dp4a)
    function = FUNCTIONS[{"ex2": "exp2", "lg2": "log2"}.get(name, name)]
    return unary(c, node, _in_wide(function, np.dtype(np.float32)))


@intrinsic("ptx.cvt_tf32_f32")
def _round_to_tf32(c: Compiler, node: Any) -> Expression:
    """cvt.rna.tf32.f32: 10 bits of mantissa, halves away from zero. Other roundings are not defined here."""
    if decode(c, node).modifiers["rnd"] != "rna":
        c.unknown("a rounding to tf32 other than rna")

    def rounded(x: Array) -> Array:
        bits = np.ascontiguousarray(x).view(np.uint32)
        return np.where(np.isfinite(x), (bits + np.uint32(0x1000)) & TF32_BITS, bits)

    return unary(c, node, rounded)
