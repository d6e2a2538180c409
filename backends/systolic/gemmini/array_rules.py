"""Steps that Gemmini's library does: convolutions, linear layers, products, sums, global averages."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ....ops.requantization import HIGHEST, LOWEST
from .c_text import literal
from .parameters import LARGEST_POOLED, LARGEST_SIZE
from .refusal import QUANTIZE, Refused, check_arithmetic, check_channels_last
from .steps import Step, shape
from .writer import Writer

HOST = "keep the layer in float32 with ignore=, and compute it elsewhere"
SUMS = "call fxpress.backends.systolic.gemmini.prepare(program) first"


def convolution(step: Step, cx: Writer) -> None:
    """A convolution, with the max pool that follows: as a product where windows are single pixels."""
    v = arguments(step.root)
    check_arithmetic(v)
    if v["residual"] is not None:
        raise Refused("a convolution cannot add a residual before it rounds", SUMS)
    factor = _factor(v, cx)
    check_channels_last(v)
    if set(shape(v["weight"])[2:]) == {1} and _is_one(v) and step.pool is None:
        oc, ic = shape(v["weight"])[:2]
        matrix = cx.tensor(v["weight"]).reshape(oc, ic).T
        rows = prod(shape(step.root)[:-1])
        return _layer(step, cx, rows, matrix, v, factor)
    _window(step, cx, v, factor)
    return None


def _is_one(v: dict[str, Any]) -> bool:
    return set(v["stride"]) == {1} and set(v["padding"]) == {0} and v["groups"] == 1


def _window(step: Step, cx: Writer, v: dict[str, Any], factor: float) -> None:
    weight = cx.tensor(v["weight"])
    oc, part, *kernel = weight.shape
    groups = v["groups"]
    before, after = v["padding"][::2], v["padding"][1::2]
    is_depthwise = groups > 1 and groups == oc and part == 1
    for what, sizes in (("kernel", kernel), ("stride", v["stride"]), ("dilation", v["dilation"]), ("padding", before)):
        if len(sizes) != 2 or len(set(sizes)) != 1:
            raise Refused(f"its {what} is {'x'.join(map(str, sizes))}, and Gemmini's are square", HOST)
    if groups > 1 and not is_depthwise:
        raise Refused(f"it has {groups} groups, and Gemmini has 1 or as many as channels in and out", HOST)
    if is_depthwise and v["dilation"][0] != 1:
        raise Refused("it is depthwise and dilated, and Gemmini has no call for both", HOST)
    if max(*before, *after) >= kernel[0]:
        raise Refused(f"its padding is {v['padding']}, and Gemmini's is smaller than the kernel", HOST)
    if not cx.parameters.holds_window(v["stride"][0], 1, 1):
        raise Refused(f"stride {v['stride'][0]} needs more scratchpad than there is", "use an array with more rows")
    if max(*shape(v["x"]), *shape(step.root), *kernel) > LARGEST_SIZE or v["stride"][0] > LARGEST_POOLED:
        raise Refused(f"a size is above {LARGEST_SIZE}, or its stride above {LARGEST_POOLED}", HOST)
    x, bias = cx.place(v["x"]), cx.constant(v["bias"], cx.tensor(v["bias"]))
    n, height, width, ic = shape(v["x"])
    out_height, out_width = shape(step.root)[1:3]
    pool = (0, 0, 0)
    if step.pool is not None:
        p = arguments(step.pool)
        pool = (p["kernel"][0], (p["stride"] or p["kernel"])[0], p["padding"][0])
    y, rest = cx.place(step.node), (_activation(v["low"]), literal(factor), *pool, "WS")
    if is_depthwise:
        w = cx.constant(v["weight"], weight)
        x, w, bias = f"(elem_t*){x}", f"(elem_t*){w}", f"(acc_t*){bias}"  # the library takes no const ones
        sizes = (n, height, width, ic, out_height, out_width, v["stride"][0], before[0], kernel[0])
        cx.call("tiled_conv_dw_auto", *sizes, x, w, bias, y, *rest)
    else:
        cx.repeats_pixels |= 2 * ic <= cx.parameters.dim and kernel[0] > 1 and v["dilation"][0] == 1
        w = cx.constant(v["weight"], weight.permute(2, 3, 1, 0))
        sizes = (n, height, width, ic, oc, out_height, out_width, v["stride"][0], 1, v["dilation"][0])
        cx.call("tiled_conv_auto", *sizes, before[0], kernel[0], *[False] * 5, x, w, bias, y, *rest)
    cx.line("gemmini_fence();")
    _clip(step, cx, v)


def linear(step: Step, cx: Writer) -> None:
    """x @ weight.T + bias with an int8 result."""
    v = arguments(step.root)
    check_arithmetic(v)
    if v["residual"] is not None:
        raise Refused("a linear layer cannot add a residual before it rounds", SUMS)
    _layer(step, cx, prod(shape(step.root)[:-1]), cx.tensor(v["weight"]).T, v, _factor(v, cx))


def _layer(step: Step, cx: Writer, rows: int, matrix: torch.Tensor, v: dict[str, Any], factor: float) -> None:
    k, n = matrix.shape
    w, bias = cx.constant(v["weight"], matrix), cx.constant(v["bias"], cx.tensor(v["bias"]))
    _product(cx, (rows, n, k), cx.place(v["x"]), w, bias, cx.place(step.node), _activation(v["low"]), factor)
    _clip(step, cx, v)


def linear_float(step: Step, cx: Writer) -> None:
    """x @ weight.T + bias with a float32 result: the sums as they are, scaled by the CPU. 1x1 convolutions, too."""
    v = arguments(step.root)
    check_arithmetic(v)
    if v["residual"] is not None or v["activation"] not in ("none", "relu"):
        raise Refused("it adds a residual or has an activation in float32", HOST)
    if "stride" in v and not (_is_one(v) and set(shape(v["weight"])[2:]) == {1} and v["channels_last"]):
        raise Refused(
            "it is a convolution with a float32 result, and Gemmini's results are int8",
            "have a linear layer or a 1x1 convolution give the model's results",
        )
    factor = _one_scale(v["weight_scale"], cx) * v["x_scale"]
    matrix = cx.tensor(v["weight"]).flatten(1).T
    w, bias = cx.constant(v["weight"], matrix), cx.constant(v["bias"], cx.tensor(v["bias"]))
    k, n = matrix.shape
    sums = cx.scratch[step]
    _product(cx, (prod(shape(step.root)[:-1]), n, k), cx.place(v["x"]), w, bias, sums, "NO_ACTIVATION", None)
    _scaled(step, cx, factor, v["activation"] == "relu")


def product(step: Step, cx: Writer) -> None:
    """a @ b with an int8 result, one call a matrix."""
    v = arguments(step.root)
    check_arithmetic(v)
    factor = v["a_scale"] * v["b_scale"] / v["y_scale"]
    _products(step, cx, v, cx.place(step.node), _activation(v["low"]), factor)
    _clip(step, cx, v)


def product_float(step: Step, cx: Writer) -> None:
    """a @ b with a float32 result."""
    v = arguments(step.root)
    check_arithmetic(v)
    _products(step, cx, v, cx.scratch[step], "NO_ACTIVATION", None)
    _scaled(step, cx, v["a_scale"] * v["b_scale"], False)


def _products(step: Step, cx: Writer, v: dict[str, Any], y: str, activation: str, factor: float | None) -> None:
    a, b = shape(v["a"]), shape(v["b"])
    if len(a) < 2 or len(b) < 2 or (a[:-2] != b[:-2] and prod(b[:-2]) > 1):
        raise Refused("its operands are no matrices, or repeat along their leading dims", "expand and reshape them")
    if prod(b[:-2]) == 1:
        a = (prod(a[:-1]), a[-1])
    m, n, k = a[-2], b[-1], a[-1]
    for i in range(prod(a[:-2])):
        operands = (_at(cx.place(v["a"]), i * m * k), _at(cx.place(v["b"]), i * k * n), "NULL", _at(y, i * m * n))
        _product(cx, (m, n, k), *operands, activation, factor)


def _product(
    cx: Writer, sizes: tuple[int, int, int], a: str, b: str, bias: str, y: str, activation: str, factor: float | None
) -> None:
    """y = a @ b + bias, scaled to int8, or as 32-bit sums without a factor."""
    m, n, k = sizes
    identity = ["MVIN_SCALE_IDENTITY"] * 3
    scale = "ACC_SCALE_IDENTITY" if factor is None else literal(factor)
    flags = (True, False, False, factor is None, False, 0, "WS")
    cx.call("tiled_matmul_auto", m, n, k, a, b, bias, y, k, n, n, n, *identity, activation, scale, 0, *flags)


def sum_(step: Step, cx: Writer) -> None:
    """a + b where Gemmini's sum is exact."""
    assert step.sum is not None
    *rows, columns = shape(step.node) or (1,)
    relu = arguments(step.root)["low"] == 0
    scales = [literal(x) for x in (step.sum.a_scale, step.sum.b_scale, step.sum.scale)]
    operands = (cx.place(step.sum.a), cx.place(step.sum.b), cx.place(step.node))
    cx.call("tiled_resadd_auto", prod(rows), columns, *scales, *operands, relu, "WS")


def global_average(step: Step, cx: Writer) -> None:
    """The mean of all pixels: Gemmini's own where it is exact, else ones @ pixels, whose sums have any scale."""
    v = arguments(step.root)
    check_arithmetic(v)
    x, y = cx.place(v["x"]), cx.place(step.node)
    n, *sizes, channels = shape(v["x"])
    count = prod(sizes)
    factor = v["x_scale"] / (v["y_scale"] * count)
    is_square = len(sizes) == 2 and sizes[0] == sizes[1]
    if is_square and literal(factor) == literal(1 / count) and (v["low"], v["high"]) == (LOWEST, HIGHEST):
        cx.call("tiled_global_average_auto", x, y, n, channels, sizes[0], "WS")
        cx.line("gemmini_fence();")
        return
    ones = cx.array(f"ones_{count}", torch.ones(count, dtype=torch.int8))
    for i in range(n):
        operands = (ones, _at(x, i * count * channels), "NULL", _at(y, i * channels))
        _product(cx, (1, channels, count), *operands, _activation(v["low"]), factor)
    _clip(step, cx, v)


def _at(place: str, offset: int) -> str:
    return f"{place} + {offset}" if offset else place


def _activation(low: int) -> str:
    return "RELU" if low >= 0 else "NO_ACTIVATION"


def _clip(step: Step, cx: Writer, v: dict[str, Any]) -> None:
    """The bounds that a rectifier and 8 bits do not give."""
    if (v["low"], v["high"]) in ((LOWEST, HIGHEST), (0, HIGHEST)):
        return
    cx.use("clip")
    cx.call("clip", cx.place(step.node), prod(shape(step.node)), v["low"], v["high"])


def _scaled(step: Step, cx: Writer, factor: float, relu: bool) -> None:
    cx.use("product")
    y, sums = cx.place(step.node), cx.scratch[step]
    value = f"product({sums}[i], {literal(factor)})"
    cx.line(f"for (int i = 0; i < {prod(shape(step.node))}; i++) {y}[i] = {value};")
    if relu:
        cx.line(f"for (int i = 0; i < {prod(shape(step.node))}; i++) if ({y}[i] < 0) {y}[i] = 0;")


def _factor(v: dict[str, Any], cx: Writer) -> float:
    """What sums are multiplied by, in float64 as the op does before it rounds to float32."""
    return _one_scale(v["weight_scale"], cx) * float(v["x_scale"]) / float(v["y_scale"])


def _one_scale(node: Node, cx: Writer) -> float:
    scales = set(cx.tensor(node).to(torch.float64).tolist())
    if len(scales) != 1:
        raise Refused("its weights have a scale for each output channel, and Gemmini has one a layer", QUANTIZE)
    return float(scales.pop())
