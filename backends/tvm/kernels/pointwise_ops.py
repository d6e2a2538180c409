"""Elementwise operations by name: what a fused pointwise program is made of.

Inside a program every value has a *carrier*, the dtype it is computed in: bool is carried as int8 holding 0
or 1 (TVM
cannot name a vector of bool), float16 and bfloat16 as float32 rounded after each operation, anything else as
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as B

from . import quantized_ops, vmath
from .base import Expr
from .vmath import (
    convert,
    element_of,
    hold,
    lanes_of,
    like,
    opaque,
    round_to_bfloat16,
    select,
    upper_half,
    wide,
)

_RANK = "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64".split()
_SIZE = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2}
DTYPES = tuple(_RANK)


def size_of(dtype: str) -> int:
    """Bytes of one element."""
    return _SIZE.get(dtype, 4 if dtype.endswith("32") else 8)


def carrier(dtype: str) -> str:
    """The dtype in which a value of `dtype` is computed."""
    return {"bool": "int8", "float16": "float32", "bfloat16": "float32"}.get(dtype, dtype)


def is_float(dtype: str) -> bool:
    """Whether `dtype` is a floating-point type."""
    return dtype.startswith(("float", "bfloat"))


def to_carrier(value: Expr, dtype: str) -> Expr:
    """A loaded element of `dtype` as its carrier."""
    return wide(value) if dtype == "bfloat16" else convert(value, carrier(dtype))


def from_carrier(value: Expr, dtype: str) -> Expr:
    """The carrier of `dtype` as an element to store."""
    if dtype == "bfloat16":
        return upper_half(value)
    return truth(value) if dtype == "bool" else convert(value, dtype)


def truth(value: Expr) -> Expr:
    """Lanes of TIR's bool: whether the carrier is not zero."""
    return B.NE(value, like(value, 0))


def flag(condition: Expr) -> Expr:
    """Lanes of TIR's bool as the carrier of bool."""
    return convert(condition, "int8")


def cast(value: Expr, source: str, target: str) -> Expr:
    """Convert a carrier of `source` to the carrier of `target`, rounding and truncating as PyTorch."""
    if source == target:
        return value
    if target == "bool":
        return _nonzero(value)
    if is_float(source) and target in ("uint8", "int8", "int16", "uint16"):
        value = convert(value, "int32")  # a negative float has no direct conversion to unsigned
    return round_to(convert(value, carrier(target)), target)


def round_to(value: Expr, dtype: str) -> Expr:
    """Round a carrier to what `dtype` can hold."""
    if dtype == "bfloat16":
        return round_to_bfloat16(value)
    return convert(convert(value, dtype), "float32") if dtype == "float16" else value


@dataclass(frozen=True)
class Operation:
    """How an elementwise operation is emitted.

    `emit(*arguments, *parameters)` takes and returns carriers. Before it, arguments are cast to the dtype of
    the result, or,
    when `common`, to the widest dtype among themselves (comparisons). `cost` is in additions, for deciding
    on threads.
    """

    emit: Callable[..., Expr]
    arity: int
    common: bool = False
    condition: bool = False  # the first argument is a bool and is not cast
    cost: int = 1


def widest(dtypes: list[str]) -> str:
    """The dtype arguments of these dtypes are compared in."""
    best = max(dtypes, key=_RANK.index)
    if best == "int8" and "uint8" in dtypes:
        return "int16"
    return "float32" if {"float16", "bfloat16"} <= set(dtypes) else best


def _float(x: Expr) -> bool:
    return is_float(element_of(x))


def constant_value(x: Expr) -> float | int | None:
    """The number an expression holds in all lanes, if it is a constant."""
    if isinstance(x, tirx.Broadcast):
        x = x.value
    return x.value if isinstance(x, (tirx.FloatImm, tirx.IntImm)) else None


def _compare(operator: Callable[[Expr, Expr], Expr]) -> Operation:
    return Operation(lambda x, y: flag(operator(opaque(x), y)), 2, common=True)


def _nonzero(x: Expr) -> Expr:
    return _differ(x, like(x, 0))


def _differ(x: Expr, y: Expr) -> Expr:
    # TVM's != is false for NaN
    equal = flag(B.EQ(opaque(x), y))
    return equal ^ like(equal, 1)


def _test(operator: Callable[[Expr], Expr]) -> Operation:
    def emit(x: Expr) -> Expr:
        return flag(operator(x)) if _float(x) else vmath.constant(0, "int8", lanes_of(x))

    return Operation(emit, 1, common=True)


def _logical(operator: Callable[[Expr, Expr], Expr]) -> Operation:
    return Operation(lambda x, y: operator(_nonzero(x), _nonzero(y)), 2, common=True)


def _library(name: str, arity: int = 1) -> Operation:
    return Operation(lambda *arguments: vmath.library(name, *arguments), arity, cost=100)


def _round(name: str) -> Operation:
    return Operation(lambda x: getattr(B, name)(x) if _float(x) else x, 1)


def _divide(x: Expr, y: Expr) -> Expr:
    return x / y if _float(x) else _truncate_divide(x, y)


def _truncate_divide(x: Expr, y: Expr) -> Expr:
    if _float(x):
        return B.trunc(x / y)
    # a zero divisor and the smallest integer over -1 trap in hardware: 0 for the first, wrap-around for the
    # second
    special = flag(B.EQ(y, like(y, 0))) | flag(B.EQ(y, like(y, -1)))
    safe = select(truth(special), like(y, 1), y)
    wrapped = select(B.EQ(y, like(y, -1)), like(x, 0) - x, like(x, 0))
    return select(truth(special), wrapped, B.truncdiv(x, hold(safe)))


def _fmod(x: Expr, y: Expr) -> Expr:
    if _float(x):
        return vmath.library("fmod", x, y)
    return x - hold(_truncate_divide(x, y)) * y


def _remainder(x: Expr, y: Expr) -> Expr:
    rest = hold(_fmod(x, y))
    return select(truth(_signs_differ(rest, y)), rest + y, rest)


def _signs_differ(rest: Expr, y: Expr) -> Expr:
    # whether a non-zero remainder has the other sign than the divisor
    zero = like(y, 0)
    return _nonzero(rest) & (flag(rest < zero) ^ flag(y < zero))


def _floor_divide(x: Expr, y: Expr) -> Expr:
    if not _float(x):
        quotient = hold(_truncate_divide(x, y))
        return select(truth(_signs_differ(x - quotient * y, y)), quotient - like(x, 1), quotient)
    rest = hold(vmath.library("fmod", x, y))
    quotient = (opaque(x) - rest) / y
    quotient = hold(select(truth(_signs_differ(rest, y)), quotient - like(x, 1), quotient))
    floor = hold(B.floor(quotient))
    floor = select(opaque(quotient) - floor > like(x, 0.5), floor + like(x, 1), floor)
    ratio = hold(x / y)
    floor = select(B.EQ(opaque(quotient), like(x, 0)), vmath.copysign(like(x, 0), ratio), floor)
    return select(B.EQ(opaque(y), like(y, 0)), ratio, floor)


def _sign(x: Expr) -> Expr:
    zero = like(x, 0)
    sign = select(x > zero, like(x, 1), select(x < zero, like(x, -1), zero))
    return sign


def _power(x: Expr, y: Expr) -> Expr:
    exponent = constant_value(y)
    if exponent == 2:
        return x * x
    if exponent == 3:
        return x * x * x
    if exponent == 1:
        return x
    if not _float(x):
        return convert(vmath.library("pow", convert(x, "float64"), convert(y, "float64")), element_of(x))
    if exponent == 0.5:
        return vmath.sqrt(x)
    if exponent == -0.5:
        return vmath.rsqrt(x)
    if exponent == -1:
        return like(x, 1) / x
    return vmath.power(x, y)


def _log_add_exp(x: Expr, y: Expr) -> Expr:
    larger = hold(vmath.maximum(x, y))
    gap = hold(vmath.absolute(opaque(x) - y))
    result = hold(larger + vmath.log1p(vmath.exp(hold(vmath.negate(gap)))))
    return select(B.EQ(opaque(x), y), x + like(x, math.log(2)), result)


def _nan_to_num(x: Expr, nan: float, high: float, low: float) -> Expr:
    if not _float(x):
        return x
    y = select(x > like(x, _largest(x)), like(x, high), x)
    y = select(x < like(x, -_largest(x)), like(x, low), y)
    return select(B.isnan(x), like(x, nan), y)


def _largest(x: Expr) -> float:
    return 3.4028234663852886e38 if element_of(x) == "float32" else 1.7976931348623157e308


def _minimum(x: Expr, y: Expr) -> Expr:
    return vmath.minimum(x, y) if _float(x) else B.min(x, y)


def _maximum(x: Expr, y: Expr) -> Expr:
    return vmath.maximum(x, y) if _float(x) else B.max(x, y)


def _unary(function: Callable[[Expr], Expr], cost: int = 1) -> Operation:
    return Operation(function, 1, cost=cost)


def _binary(function: Callable[[Expr, Expr], Expr]) -> Operation:
    return Operation(function, 2)


def _activation(name: str) -> Operation:
    function, _ = vmath.ACTIVATIONS[name]
    return Operation(lambda x, *parameters: function(x, *parameters), 1, cost=15)


def _quantized_add(*arguments: Any) -> Expr:
    """The sum of two int8 values. Then come their zero points, their factors, and zero, low, high, mode of the sum."""
    values, zeros, factors, limits = arguments[:2], arguments[2:4], arguments[4:6], arguments[6:]
    terms = [
        (convert(x, "int32") - vmath.constant(zero, "int32", lanes_of(x)), factor)
        for x, zero, factor in zip(values, zeros, factors, strict=True)
    ]
    return convert(quantized_ops.requantize(terms, *limits), "int8")


def _sign_bit(x: Expr) -> Expr:
    if _float(x):
        x = vmath.bits(x, "int32" if element_of(x) == "float32" else "int64")
    return flag(x < like(x, 0))


POINTWISE: dict[str, Operation] = {
    **{name: _activation(name) for name in vmath.ACTIVATIONS},
    "cast": Operation(lambda x: x, 1),
    "add": _binary(lambda x, y: x + y),
    "sub": _binary(lambda x, y: opaque(x) - y),
    "mul": _binary(lambda x, y: opaque(x) * y),
    "div": _binary(_divide),
    "div_trunc": Operation(_truncate_divide, 2, cost=10),
    "div_floor": Operation(_floor_divide, 2, cost=100),
    "remainder": Operation(_remainder, 2, cost=100),
    "fmod": Operation(_fmod, 2, cost=100),
    "minimum": _binary(_minimum),
    "maximum": _binary(_maximum),
    "fmin": _binary(lambda x, y: select(B.isnan(x), y, B.min(y, x)) if _float(x) else B.min(x, y)),
    "fmax": _binary(lambda x, y: select(B.isnan(x), y, B.max(y, x)) if _float(x) else B.max(x, y)),
    "clamp": Operation(lambda x, low, high: _minimum(hold(_maximum(x, low)), high), 3),
    "relu": _unary(lambda x: vmath.at_least(x, 0)),
    "neg": _unary(lambda x: vmath.negate(x) if _float(x) else like(x, 0) - x),
    "abs": _unary(vmath.absolute),
    "sign": _unary(_sign),
    "square": _unary(lambda x: opaque(x) * x),
    "reciprocal": _unary(lambda x: like(x, 1) / x, 3),
    "sqrt": _unary(vmath.sqrt, 5),
    "rsqrt": _unary(vmath.rsqrt, 8),
    "exp": _unary(vmath.exp, 12),
    "expm1": _unary(vmath.expm1, 12),
    "log": _unary(vmath.log, 20),
    "log1p": _unary(vmath.log1p, 20),
    "sin": _unary(vmath.sin, 30),
    "cos": _unary(vmath.cos, 30),
    "erf": _unary(vmath.erf, 25),
    **{
        name: _library(name)
        for name in ("exp2 log2 log10 tan asin acos atan sinh cosh asinh acosh atanh erfc lgamma".split())
    },
    "atan2": _library("atan2", 2),
    "hypot": _library("hypot", 2),
    "nextafter": _library("nextafter", 2),
    "pow": _binary(_power),
    "logaddexp": Operation(_log_add_exp, 2, cost=40),
    "copysign": _binary(vmath.copysign),
    "floor": _round("floor"),
    "ceil": _round("ceil"),
    "trunc": _round("trunc"),
    "round": _round("nearbyint"),
    "frac": _unary(lambda x: opaque(x) - B.trunc(x)),
    "nan_to_num": Operation(_nan_to_num, 1, cost=3),
    "eq": _compare(B.EQ),
    "ne": Operation(_differ, 2, common=True),
    "lt": _compare(lambda x, y: x < y),
    "le": _compare(lambda x, y: x <= y),
    "gt": _compare(lambda x, y: x > y),
    "ge": _compare(lambda x, y: x >= y),
    "isnan": _test(B.isnan),
    "isinf": _test(lambda x: B.EQ(vmath.absolute(x), like(x, math.inf))),
    "isfinite": Operation(
        lambda x: flag(vmath.absolute(x) < like(x, math.inf)) if _float(x) else vmath.constant(1, "int8", lanes_of(x)),
        1,
        common=True,
    ),
    "signbit": Operation(
        _sign_bit,
        1,
        common=True,
    ),
    "logical_and": _logical(lambda x, y: x & y),
    "logical_or": _logical(lambda x, y: x | y),
    "logical_xor": _logical(lambda x, y: x ^ y),
    "logical_not": Operation(lambda x: flag(B.EQ(opaque(x), like(x, 0))), 1, common=True),
    "bitwise_and": _binary(lambda x, y: x & y),
    "bitwise_or": _binary(lambda x, y: x | y),
    "bitwise_xor": _binary(lambda x, y: x ^ y),
    "bitwise_not": Operation(lambda x: x ^ like(x, -1), 1),
    "shift_left": _binary(lambda x, y: x << y),
    "shift_right": _binary(lambda x, y: x >> y),
    "quantize": Operation(quantized_ops.quantize, 1, common=True, cost=4),
    "dequantize": Operation(quantized_ops.dequantize, 1, cost=2),
    "quantized_add": Operation(_quantized_add, 2, common=True, cost=10),
    "where": Operation(lambda c, x, y: select(truth(c), x, y), 3, condition=True),
}


def emit(name: str, arguments: list[Expr], dtypes: list[str], dtype: str, parameters: tuple[Any, ...] = ()) -> Expr:
    """Emit one operation on carriers of `dtypes`; returns the carrier of the result's `dtype`."""
    operation = POINTWISE[name]
    first = 1 if operation.condition else 0
    wanted = widest(dtypes) if operation.common else dtype
    values = [x if i < first else cast(x, dtypes[i], wanted) for i, x in enumerate(arguments)]
    if name == "bitwise_not" and dtype == "bool":
        return values[0] ^ like(values[0], 1)
    if name == "add" and dtype == "bool":
        return values[0] | values[1]
    return round_to(operation.emit(*values, *parameters), dtype)
