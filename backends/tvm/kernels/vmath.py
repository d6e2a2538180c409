"""Elementary functions as vector code: polynomials in TIR that work for any number of lanes.

LLVM would turn exp, log, tanh, sin and the like into one scalar library call a lane, 14 to 27 times slower.
The float32 versions here are within 1 to 3 units in the last place; float64 ones do call the scalar library.
NaN, infinities and signed zeros flow as in PyTorch.

Two properties of the code generator shape this file. TVM's simplifier treats floats as real numbers in places
((x + c) - c becomes x, x != x becomes false): `opaque` stops it. LLVM contracts a * b + c into one rounding,
which the range reductions rely on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as B

from ....errors import InvalidInput
from .base import Expr, Registers, broadcast

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # high part exact in 12 bits
_EXPM1 = (1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_ERF_SMALL = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
_ERF_LARGE = (
    -1.72853470e-5,
    3.83197126e-4,
    -3.88396438e-3,
    2.42546219e-2,
    -1.06777877e-1,
    -6.34846687e-1,
    -1.28717512e-1,
)
_SIN = (2.718311493989822e-6, -1.9839334836096632e-4, 8.333329385889463e-3, -1.6666666641626524e-1)
_COS = (2.439044879627741e-5, -1.388676377460993e-3, 4.1666623323739063e-2, -4.9999999725103100e-1)


def lanes_of(x: Expr) -> int:
    """How many lanes the expression has."""
    return int(x.ty.dtype.lanes)


def element_of(x: Expr) -> str:
    """The dtype of one lane of the expression."""
    return str(x.ty.dtype.with_lanes(1))


def vector_type(element: str, lanes: int) -> str:
    """The dtype string of `lanes` lanes of `element`."""
    return element if lanes == 1 else f"{element}x{lanes}"


def constant(value: float | int | bool, element: str, lanes: int = 1) -> Expr:
    """`value` in every lane."""
    return broadcast(tirx.const(value, element), lanes)


def like(x: Expr, value: float | int) -> Expr:
    """`value` in the dtype and lanes of `x`."""
    return constant(value, element_of(x), lanes_of(x))


def convert(x: Expr, element: str) -> Expr:
    """`x` cast lane by lane; `x` itself when it has that element dtype already."""
    return x if element_of(x) == element else B.cast(x, vector_type(element, lanes_of(x)))


def bits(x: Expr, element: str) -> Expr:
    """The bit pattern of `x` read as another dtype of the same width."""
    return tirx.reinterpret(vector_type(element, lanes_of(x)), x)


def opaque(x: Expr) -> Expr:
    """`x`, hidden from TVM's simplifier, which otherwise applies real-number identities to floats."""
    if element_of(x) == "float32":
        return bits(bits(x, "int32"), "float32")
    return bits(bits(x, "int64"), "float64") if element_of(x) == "float64" else x


def hold(x: Expr) -> Expr:
    """`x`, evaluated once however often it is used. Not for vectors of bool.

    It goes through a register that LLVM promotes, not through `B.bind`: TVM's analyzer walks into a bound
    value
    again at each use, so that the time to compile a chain of bound values grows exponentially with its
    length.
    """
    register = Registers(1, lanes_of(x), element_of(x))
    register[0] = x
    return register[0]


def wide(x: Expr) -> Expr:
    """bfloat16 as float32: the bits are its upper half."""
    upper = convert(bits(x, "uint16"), "int32")
    return bits(upper << like(upper, 16), "float32")


def upper_half(x: Expr) -> Expr:
    """A float32 that bfloat16 can hold, as bfloat16."""
    whole = bits(x, "int32")
    return bits(convert(whole >> like(whole, 16), "uint16"), "bfloat16")


def round_to_bfloat16(x: Expr) -> Expr:
    """A float32 rounded to what bfloat16 can hold, half to even, as float32.

    TVM's own conversion there and back is no conversion at all.
    """
    whole = hold(bits(x, "int32"))
    even = (whole >> like(whole, 16)) & like(whole, 1)
    rounded = (whole + (even + like(whole, 0x7FFF))) & like(whole, -(1 << 16))
    nan = (whole & like(whole, 0x7FFFFFFF)) > like(whole, 0x7F800000)
    return bits(select(nan, like(whole, 0x7FC00000), rounded), "float32")


def to_float32(x: Expr) -> Expr:
    """`x` of any float type as float32."""
    return wide(x) if element_of(x) == "bfloat16" else convert(x, "float32")


def from_float32(x: Expr, element: str) -> Expr:
    """A float32 rounded to another float type, half to even."""
    return upper_half(round_to_bfloat16(x)) if element == "bfloat16" else convert(x, element)


def select(condition: Expr, x: Expr, y: Expr) -> Expr:
    """Lane by lane `x` where the condition holds, else `y`; both are evaluated."""
    return tirx.Select(condition, x, y)


def maximum(x: Expr, y: Expr) -> Expr:
    """The larger; NaN if either is NaN, as torch.maximum."""
    return select(B.isnan(x), x, B.max(x, y))


def minimum(x: Expr, y: Expr) -> Expr:
    """The smaller; NaN if either is NaN, as torch.minimum."""
    return select(B.isnan(x), x, B.min(x, y))


def at_least(x: Expr, low: float) -> Expr:
    """max(x, low) for a constant; NaN stays NaN because a failed comparison picks the second operand."""
    return B.max(like(x, low), x)


def at_most(x: Expr, high: float) -> Expr:
    """min(x, high) for a constant; NaN stays NaN."""
    return B.min(like(x, high), x)


def clamp(x: Expr, low: float, high: float) -> Expr:
    """min(max(x, low), high) for constants; NaN stays NaN."""
    return at_most(at_least(x, low), high)


def absolute(x: Expr) -> Expr:
    """|x|."""
    return B.abs(x)


def negate(x: Expr) -> Expr:
    """-x, with the sign of zero turned too."""
    return x * like(x, -1)


def copysign(magnitude: Expr, sign: Expr) -> Expr:
    """The magnitude of the first with the sign bit of the second."""
    width = "int32" if element_of(magnitude) == "float32" else "int64"
    top = like(bits(magnitude, width), -(1 << (31 if width == "int32" else 63)))
    low = like(bits(magnitude, width), (1 << (31 if width == "int32" else 63)) - 1)
    return bits((bits(magnitude, width) & low) | (bits(sign, width) & top), element_of(magnitude))


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The polynomial with these coefficients, the highest power first."""
    total = like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + like(x, coefficient)
    return total


def library(name: str, *arguments: Expr) -> Expr:
    """A function of the C math library, called once a lane."""
    lanes, element = lanes_of(arguments[0]), element_of(arguments[0])
    symbol = name if element == "float64" else f"{name}f"
    if lanes == 1:
        return B.call_pure_extern(element, symbol, *arguments)
    calls = []
    for lane in range(lanes):
        scalars = (tirx.Shuffle([x], [lane]) for x in arguments)
        calls.append(B.call_pure_extern(element, symbol, *scalars))
    return tirx.Shuffle(calls, list(range(lanes)))


def _power_of_two(n: Expr) -> Expr:
    # 2^n for an int32 n from -126 to 127, written straight into the exponent bits
    return bits((n + like(n, 127)) << like(n, 23), "float32")


def _reduce_exp(x: Expr) -> tuple[Expr, Expr]:
    # x = n ln 2 + r; returns n as a float and expm1(r)
    n = hold(B.nearbyint(x * like(x, _LOG2E)))
    r = hold(n * like(x, -_LN2_HIGH) + x)
    r = hold(n * like(x, -_LN2_LOW) + r)
    return n, hold(horner(r, _EXPM1) * (r * r) + r)


def exp(x: Expr) -> Expr:
    """e^x, with gradual underflow."""
    if element_of(x) == "float64":
        return library("exp", x)
    n, fraction = _reduce_exp(hold(clamp(x, -104.0, 89.0)))
    power = hold(convert(n, "int32"))
    half = hold(power >> like(power, 1))
    one = like(x, 1.0)
    return hold((fraction + one) * _power_of_two(half) * _power_of_two(power - half))


def exp_nonpositive(x: Expr) -> Expr:
    """e^x for x <= 0 or NaN, the cheaper form that softmax needs: below -87.3 the result is 0."""
    if element_of(x) == "float64":
        return library("exp", x)
    n, fraction = _reduce_exp(hold(at_least(x, -88.0)))
    y = hold((fraction + like(x, 1.0)) * _power_of_two(at_least(convert(n, "int32"), -126)))
    return hold(select(x < like(x, -87.3), like(x, 0.0), y))


def expm1(x: Expr) -> Expr:
    """e^x - 1, accurate near zero."""
    if element_of(x) == "float64":
        return library("expm1", x)
    n, fraction = _reduce_exp(hold(clamp(x, -30.0, 89.0)))
    half = hold(_power_of_two(convert(n, "int32") - like(convert(n, "int32"), 1)))  # 2^(n-1): n may be 128
    y = half * fraction + opaque(half - like(x, 0.5))
    return hold(select(B.EQ(x, like(x, 0.0)), x, y * like(x, 2.0)))


def _log1p_reduced(f: Expr, exponent: Expr) -> Expr:
    # log(1 + f) + exponent * ln 2 for f from sqrt(0.5) - 1 to sqrt(2) - 1
    square = hold(f * f)
    y = hold(horner(f, _LOG) * (square * f) + exponent * like(f, -2.12194440e-4))
    y = hold(square * like(f, -0.5) + y)
    return hold(exponent * like(f, 0.693359375) + (f + y))


def _octave(pattern: Expr) -> Expr:
    # the e for which 2^-e brings this float's bit pattern between sqrt(0.5) and sqrt(2)
    return hold((pattern - like(pattern, 0x3F3504F3)) >> like(pattern, 23))


def log(x: Expr) -> Expr:
    """The natural logarithm: -inf at 0, NaN below."""
    if element_of(x) == "float64":
        return library("log", x)
    tiny = x < like(x, 2.0**-126)  # never bound: TVM cannot bind a vector of bool
    pattern = hold(bits(select(tiny, x * like(x, 2.0**23), x), "int32"))
    e = _octave(pattern)
    f = hold(opaque(bits(pattern - (e << like(e, 23)), "float32")) - like(x, 1.0))
    exponent = hold(convert(e, "float32") - select(tiny, like(x, 23.0), like(x, 0.0)))
    return _log_edges(x, x, _log1p_reduced(f, exponent))


def log1p(x: Expr) -> Expr:
    """log(1 + x), accurate near zero."""
    if element_of(x) == "float64":
        return library("log1p", x)
    u = hold(x + like(x, 1.0))
    pattern = hold(bits(u, "int32"))
    e = _octave(pattern)
    scale = hold(bits((like(e, 127) - e) << like(e, 23), "float32"))
    near = x * scale + opaque(opaque(scale) - like(x, 1.0))
    far = opaque(bits(pattern - (e << like(e, 23)), "float32")) - like(x, 1.0)
    f = hold(select(e > like(e, 24), far, near))
    y = _log_edges(u, x, _log1p_reduced(f, hold(convert(e, "float32"))))
    return hold(select(B.EQ(x, like(x, 0.0)), x, y))


def _log_edges(u: Expr, x: Expr, y: Expr) -> Expr:
    infinite = like(x, math.inf)
    y = hold(select(u < infinite, y, u))  # inf and NaN are their own logarithm
    y = hold(select(B.EQ(u, like(x, 0.0)), like(x, -math.inf), y))
    return hold(select(u < like(x, 0.0), like(x, math.nan), y))


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent."""
    if element_of(x) == "float64":
        return library("tanh", x)
    # t / (t + 2) with t = expm1(2|x|) keeps full relative accuracy; above 10 the result rounds to 1
    magnitude = hold(at_most(absolute(x), 10.0))
    n, fraction = _reduce_exp(hold(magnitude + magnitude))
    scale = hold(_power_of_two(convert(n, "int32")))
    t = hold(scale * fraction + opaque(scale - like(x, 1.0)))
    return hold(copysign(t / (t + like(x, 2.0)), x))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    one = like(x, 1.0)
    return hold(one / (one + exp(hold(negate(x)))))


def erf(x: Expr) -> Expr:
    """The error function."""
    if element_of(x) == "float64":
        return library("erf", x)
    t, square = hold(absolute(x)), hold(x * x)
    small = horner(square, _ERF_SMALL)
    high = hold(like(x, _ERF_LARGE[0]) * t + like(x, _ERF_LARGE[1]))
    low = hold(like(x, _ERF_LARGE[2]) * t + like(x, _ERF_LARGE[3]))
    r = hold(high * square + low)
    for coefficient in _ERF_LARGE[4:]:
        r = r * t + like(x, coefficient)
    # from 4 on erf rounds to 1; the bound keeps the polynomial, which grows back, out of that range
    r = hold(select(t > like(x, 4.0), like(x, -80.0), r * t - t))
    n, fraction = _reduce_exp(r)
    tail = (fraction + like(x, 1.0)) * _power_of_two(convert(n, "int32"))
    large = copysign(like(x, 1.0) - tail, x)
    near = hold(small * x + x)
    return hold(select(B.isnan(x), x, select(t > like(x, 0.927734375), large, near)))


def erfc(x: Expr) -> Expr:
    """1 - erf(x) from the C library: it must stay accurate where erf is nearly 1."""
    return library("erfc", x)


def power(x: Expr, y: Expr) -> Expr:
    """x^y from the C library: sign, zero and integer exponents make it a bad polynomial."""
    return library("pow", x, y)


def sqrt(x: Expr) -> Expr:
    """The square root, correctly rounded."""
    return B.sqrt(x)


def rsqrt(x: Expr) -> Expr:
    """1 / sqrt(x)."""
    return hold(like(x, 1.0) / B.sqrt(x))


def _quarter_turns(x: Expr) -> tuple[Expr, Expr]:
    # x = q pi/2 + r in float64, exact enough for |x| up to 2^40; returns q mod 4 as int32 and r as float32
    wide = hold(convert(x, "float64"))
    q = hold(B.nearbyint(wide * like(wide, 2 / math.pi)))
    r = hold(q * like(wide, -1.5707963267948966) + wide)
    r = hold(q * like(wide, -6.123233995736766e-17) + r)
    quadrant = hold(q - like(wide, 4.0) * B.floor(q * like(wide, 0.25)))
    return hold(convert(quadrant, "int32")), hold(convert(r, "float32"))


def _sin_of_quarter(x: Expr, quadrant: Expr, r: Expr) -> Expr:
    square = hold(r * r)
    sine = hold(horner(square, _SIN) * (square * r) + r)
    cosine = hold(horner(square, _COS) * square + like(r, 1.0))
    y = hold(select(B.EQ(quadrant & like(quadrant, 1), like(quadrant, 1)), cosine, sine))
    y = hold(select(B.EQ(quadrant & like(quadrant, 2), like(quadrant, 2)), negate(y), y))
    finite = absolute(x) < like(x, math.inf)
    return hold(select(finite, y, like(x, math.nan)))


def sin(x: Expr) -> Expr:
    """The sine of x in radians, accurate for |x| up to 2^40."""
    if element_of(x) == "float64":
        return library("sin", x)
    quadrant, r = _quarter_turns(x)
    return hold(select(B.EQ(x, like(x, 0.0)), x, _sin_of_quarter(x, quadrant, r)))


def cos(x: Expr) -> Expr:
    """The cosine of x in radians, accurate for |x| up to 2^40."""
    if element_of(x) == "float64":
        return library("cos", x)
    quadrant, r = _quarter_turns(x)
    return _sin_of_quarter(x, hold(quadrant + like(quadrant, 1)), r)


def gelu(x: Expr) -> Expr:
    """x Phi(x) through erf."""
    return hold(x * like(x, 0.5) * (like(x, 1.0) + erf(hold(x * like(x, math.sqrt(0.5))))))


def gelu_tanh(x: Expr) -> Expr:
    """The tanh approximation of gelu."""
    inner = hold(like(x, math.sqrt(2 / math.pi)) * (x + like(x, 0.044715) * x * x * x))
    return hold(x * like(x, 0.5) * (like(x, 1.0) + tanh(inner)))


def softplus(x: Expr, beta: float = 1.0, threshold: float = 20.0) -> Expr:
    """log(1 + e^(beta x)) / beta, and x itself where beta x exceeds the threshold."""
    scaled = hold(x * like(x, beta))
    soft = log1p(exp(scaled)) * like(x, 1.0 / beta)
    return hold(select(scaled > like(x, threshold), x, soft))


def mish(x: Expr) -> Expr:
    """x tanh(softplus(x)), as x n / (n + 2) with n = e^x (e^x + 2)."""
    e = exp(hold(at_most(x, 20.0)))
    n = hold(e * (e + like(x, 2.0)))
    return hold(x * (n / (n + like(x, 2.0))))


def elu(x: Expr, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Expr:
    """scale x where x > 0, else scale alpha (e^(input_scale x) - 1)."""
    curve = expm1(hold(x * like(x, input_scale))) * like(x, alpha * scale)
    return hold(select(x > like(x, 0.0), x * like(x, scale), curve))


def leaky_relu(x: Expr, slope: float = 0.01) -> Expr:
    """x where x > 0, else slope x."""
    return hold(select(x > like(x, 0.0), x, x * like(x, slope)))


def hardsigmoid(x: Expr) -> Expr:
    """clamp(x + 3, 0, 6) / 6."""
    return hold(clamp(x + like(x, 3.0), 0.0, 6.0) * like(x, 1.0 / 6.0))


def log_sigmoid(x: Expr) -> Expr:
    """log(sigmoid(x)) without overflow."""
    return hold(at_most(x, 0.0) - log1p(exp(hold(negate(absolute(x))))))


# name -> (function of x and the parameters, their defaults)
ACTIVATIONS: dict[str, tuple[Callable[..., Expr], tuple[float, ...]]] = {
    "none": (lambda x: x, ()),
    "relu": (lambda x: at_least(x, 0.0), ()),
    "relu6": (lambda x: clamp(x, 0.0, 6.0), ()),
    "clamp": (clamp, (0.0, 1.0)),
    "leaky_relu": (leaky_relu, (0.01,)),
    "elu": (elu, (1.0, 1.0, 1.0)),
    "selu": (lambda x: elu(x, 1.6732632423543772, 1.0507009873554805), ()),
    "sigmoid": (sigmoid, ()),
    "hardsigmoid": (hardsigmoid, ()),
    "log_sigmoid": (log_sigmoid, ()),
    "tanh": (tanh, ()),
    "silu": (lambda x: hold(x / (like(x, 1.0) + exp(hold(negate(x))))), ()),
    "hardswish": (lambda x: hold(x * clamp(x + like(x, 3.0), 0.0, 6.0) * like(x, 1.0 / 6.0)), ()),
    "gelu": (gelu, ()),
    "gelu_tanh": (gelu_tanh, ()),
    "quick_gelu": (lambda x: hold(x * sigmoid(hold(x * like(x, 1.702)))), ()),
    "softplus": (softplus, (1.0, 20.0)),
    "mish": (mish, ()),
    "relu_squared": (lambda x: hold(at_least(x, 0.0) * at_least(x, 0.0)), ()),
}


def square(x: Expr) -> Expr:
    """x * x, with `x` evaluated once."""
    x = hold(x)
    return x * x


def parse_activation(name: str) -> tuple[str, tuple[float, ...]]:
    """Read `relu` or `clamp(0.0,6.0)` as a name of ACTIVATIONS and all its parameters, defaults filled in.

    Raises InvalidInput for an unknown name or the wrong number of parameters.
    """
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", name)
    if match is None or match.group(1) not in ACTIVATIONS:
        raise InvalidInput(f"activation must be one of {sorted(ACTIVATIONS)}, not {name!r}")
    kind = match.group(1)
    defaults = ACTIVATIONS[kind][1]
    try:
        given = tuple(float(part) for part in (match.group(2) or "").split(",") if part.strip())
    except ValueError:
        raise InvalidInput(f"parameters of activation {kind} must be numbers, not {name!r}") from None
    if len(given) > len(defaults):
        raise InvalidInput(f"activation {kind} must have at most {len(defaults)} parameters, not {name!r}")
    return kind, given + defaults[len(given) :]


def activate(name: str, x: Expr, lanes: int) -> Expr:
    """The activation `name` (see `parse_activation`) of a float32 or float64 vector of `lanes` lanes."""
    if lanes_of(x) != lanes:
        raise InvalidInput(f"activation input must have {lanes} lanes, not {lanes_of(x)}")
    kind, parameters = parse_activation(name)
    return ACTIVATIONS[kind][0](x, *parameters)
