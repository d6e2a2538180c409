"""Convolutions and linear layers of 8-bit integers: exact sums, requantised by the kernel that makes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from ....cpu import CpuTarget
from ....integer_sparsity import find_pattern, integer_masked_pays, pattern_pays
from ....ops.requantization import multiplier_of, shift_of
from ....sparsity import are_streamed
from ..kernels.conv_shape import ConvShape
from ..kernels.integer import shifted_bias
from ..kernels.integer_conv import IntegerConv, IntegerTiledConv
from ..kernels.integer_depthwise import IntegerDepthwise
from ..kernels.integer_masked_conv import IntegerMaskedConv
from ..kernels.integer_sparse_conv import IntegerSparseConv
from ..kernels.integer_window_conv import IntegerWindowConv, Window
from ..kernels.requantization import Numbers, Requantization
from ..lowering import Lowering, OpRule
from ..placement import BIAS
from ..views import View
from .convolution import conv_shape
from .images import channels_last_input, channels_last_output, dense_channels, four_dims, restore_order
from .linear import even_rows, rows
from .quantized_checks import check_numbers
from .sparse_weights import expanded, is_known, known_weight

fxpress = torch.ops.fxpress

_CONSTANTS = {"weight": torch.int8, "bias": torch.int32, "weight_scale": torch.float32}


@dataclass(frozen=True)
class _Layer:
    """The constants of a quantised layer, the op that unpacks its weight (or None), and how sums become results."""

    weight: torch.Tensor
    stored: Any
    bias: torch.Tensor
    numbers: Numbers
    results: Requantization

    @property
    def biased(self) -> bool:
        """Whether the results are 8-bit integers."""
        return self.results.mode != "float"


def conv(node: Node, cx: Lowering) -> None:
    """quantized_conv and quantized_conv_float."""
    a = arguments(node)
    layer, last = _layer(node, a), a["channels_last"]
    source = channels_last_input(cx, a["x"], a["padding"], last, a["x_zero"] + BIAS, biased=True)
    target = channels_last_output(cx, node, last, layer.biased)
    added = _residual(cx, a["residual"], layer)
    added = None if added is None else dense_channels(cx, added, last)
    shape = conv_shape(source, target, added, layer.weight, a["stride"], a["padding"], a["dilation"], a["groups"])
    _call(cx, layer, shape, four_dims(layer.weight), source, added, target)
    restore_order(cx, node, target, last)


def linear(node: Node, cx: Lowering) -> None:
    """quantized_linear and quantized_linear_float: a 1x1 convolution of rows."""
    a = arguments(node)
    layer = _layer(node, a)
    n, k = layer.weight.shape
    target = cx.output(node, strided=True, biased=layer.biased)
    residual = _residual(cx, a["residual"], layer)
    source, computed, added, split = even_rows(cx, cx.biased(a["x"]), target, residual)
    outer = math.prod(target.shape[:split])

    def strides(view: View) -> tuple[int, int, int]:
        found = rows(view, split)
        assert found is not None
        return found.outer, 0, found.inner

    shape = ConvShape(
        batch=outer,
        height=1,
        width=target.elements // (outer * n) if target.elements else 0,
        ic=k,
        oc=n,
        kernel=(1, 1),
        x_strides=strides(source),
        y_strides=strides(computed),
        residual_strides=None if added is None else strides(added),
    )
    _call(cx, layer, shape, layer.weight[:, :, None, None], source, added, computed)
    if computed is not target:
        cx.copy(computed, target, "copy: into the concatenation")


def _call(
    cx: Lowering, layer: _Layer, shape: ConvShape, weight: torch.Tensor, x: View, residual: View | None, y: View
) -> None:
    bias, (factor, *numbers) = shifted_bias(layer.bias, weight), layer.results.pack(layer.numbers)
    kernel: IntegerTiledConv | IntegerDepthwise
    if shape.groups == shape.ic == shape.oc:
        kernel = depthwise = IntegerDepthwise.choose(shape, layer.results, cx.target)
        packed = depthwise.pack(weight)
        kernel, parts = depthwise.for_weights(packed), [_stored(cx, layer, packed)]
        bias, factor = depthwise.spread(bias, sums=True), depthwise.spread(factor, sums=False)
    else:
        kernel, parts = _kernel(cx, layer, shape, weight)
    constants = [cx.constant(x) for x in (bias, factor, *numbers)]
    cx.call(kernel, x, *parts, *constants, *([] if residual is None else [residual]), y)


def _kernel(cx: Lowering, layer: _Layer, shape: ConvShape, weight: torch.Tensor) -> tuple[IntegerTiledConv, list[View]]:
    """The kernel that suits how the weight is stored, and its weight operands."""
    if layer.stored is fxpress.unpack_blocks.default and shape.groups == 1:
        sparse = IntegerSparseConv.choose(shape, layer.results, cx.target, weight)
        parts = sparse.pack_sparse(weight)
        return sparse.for_weights(parts[0]), list(map(cx.constant, parts))
    direct = IntegerConv.choose(shape, layer.results, cx.target)
    packed = direct.pack(weight)
    if layer.stored is fxpress.unpack_masked.default and shape.groups == 1:
        pattern = find_pattern(direct.laid_out(weight))
        if pattern is not None and pattern_pays(pattern, shape.pixels, cx.target):
            windows = IntegerWindowConv.choose(shape, layer.results, cx.target, Window(*pattern))
            values, fields = windows.pack_windows(weight)
            return windows.for_weights(values), [cx.constant(values), cx.constant(fields)]
        streamed = cx.cached("streamed", lambda: are_streamed(cx.program, cx.target))
        if integer_masked_pays(shape.pixels, weight, streamed, cx.target):
            masked = IntegerMaskedConv.choose(shape, layer.results, cx.target).for_weights(packed)
            return masked, list(map(cx.constant, masked.pack_values(weight)))
    return direct.for_weights(packed), [_stored(cx, layer, packed)]


def _stored(cx: Lowering, layer: _Layer, packed: torch.Tensor) -> View:
    """The memory of a packed weight, which only dense kernels read whole."""
    return cx.constant(packed) if layer.stored is None else expanded(cx, packed)


def _residual(cx: Lowering, residual: Node | None, layer: _Layer) -> View | None:
    if residual is None:
        return None
    return cx.biased(residual) if layer.biased else cx.view(residual)


def _layer(node: Node, a: dict[str, Any]) -> _Layer:
    weight, bias, scale = (known_weight(a[name]) for name in _CONSTANTS)
    stored = a["weight"].target if a["weight"].op == "call_function" else None
    factor, residual = scale.to(torch.float64) * a["x_scale"], a["residual"] is not None
    if "mode" not in a:
        how = Requantization(mode="float", channels=factor.numel(), residual=residual, activation=a["activation"])
        return _Layer(weight, stored, bias, Numbers(factor), how)
    numbers = Numbers(
        factor / a["y_scale"],
        a["y_zero"],
        a["low"],
        a["high"],
        a["residual_scale"] / a["y_scale"] if residual else None,
        a["residual_zero"],
    )
    return _Layer(weight, stored, bias, numbers, Requantization.choose(a["mode"], numbers, _largest_sum(weight, bias)))


def _largest_sum(weight: torch.Tensor, bias: torch.Tensor) -> int:
    """How far from 0 the sum of a channel can be, its bias included, for any input."""
    reach = 128 * weight.to(torch.int16).abs().flatten(1).sum(1, dtype=torch.int64) + bias.to(torch.int64).abs()
    return int(reach.max())


def check(node: Node, target: CpuTarget) -> str | None:
    """Why a quantised layer cannot be computed exactly, or None."""
    a = arguments(node)
    if a["x"].meta["val"].dtype != torch.int8:
        return f"its input must be int8, not {a['x'].meta['val'].dtype}"
    for name, dtype in _CONSTANTS.items():
        value = a[name]
        if not is_known(value):
            return f"its {name} must be a constant"
        if value.meta["val"].dtype != dtype:
            return f"its {name} must be {dtype}, not {value.meta['val'].dtype}"
    absent = ("residual_scale", "residual_zero") if a["residual"] is None else ()
    numbers = {name: value for name, value in a.items() if name not in absent}
    return check_numbers(numbers) or _check_products(node, a)


def _check_products(node: Node, a: dict[str, Any]) -> str | None:
    layer = _layer(node, a)
    largest = _largest_sum(layer.weight, layer.bias)
    if largest >= 2**31:
        return f"its sums may reach {largest}, more than 32 bits hold; use smaller weights or a smaller bias"
    factors = [layer.numbers.factor, torch.tensor([layer.numbers.residual_factor or 1.0], dtype=torch.float64)]
    factor = torch.cat([x.reshape(-1) for x in factors])
    if not ((factor > 0) & factor.to(torch.float32).isfinite()).all():
        return "its scales must be positive, and so must be their products, which float32 must hold"
    if layer.results.mode == "I" and int(multiplier_of(factor, shift_of(factor)).max()) >= 2**31:
        return f"its scales must make the results less than 2**30 times the sums, not {float(factor.max()):g} times"
    return None


_RULES = {
    fxpress.quantized_conv.default: conv,
    fxpress.quantized_conv_float.default: conv,
    fxpress.quantized_linear.default: linear,
    fxpress.quantized_linear_float.default: linear,
}

RULES: dict[Any, OpRule] = {op: OpRule(rule, check) for op, rule in _RULES.items()}
