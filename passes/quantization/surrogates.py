"""What each quantised op computes in real numbers, before rounding: what training differentiates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from ...ops import fxpress

Arguments = Mapping[str, Any]
"""The arguments of a quantised op by name; integers, of weights and bias too, are the real numbers they stand for."""


def quantized_operands(node: Node) -> dict[str, tuple[str, str]]:
    """The operands that are int8 values: name -> the names of the arguments that hold their scale and zero point."""
    if node.target is fxpress.dequantize.default:
        return {"x": ("scale", "zero_point")}
    names = [argument.name for argument in node.target._schema.arguments]
    return {name: (f"{name}_scale", f"{name}_zero") for name in names if f"{name}_scale" in names and name != "weight"}


def quantized_result(node: Node) -> tuple[str, str] | None:
    """The names of the arguments that hold the scale and zero point of an int8 result; None where none do."""
    if node.target is fxpress.quantize.default:
        return "scale", "zero_point"
    names = [argument.name for argument in node.target._schema.arguments]
    return ("y_scale", "y_zero") if "y_scale" in names else None


def _conv(a: Arguments) -> Tensor:
    geometry = (a["stride"], a["padding"], a["dilation"], a["groups"])
    operands = (a["x"], a["weight"], a["bias"], a["residual"])
    y: Tensor = fxpress.conv(*operands, *geometry, a.get("activation", "none"), a["channels_last"])
    return y


def _linear(a: Arguments) -> Tensor:
    y: Tensor = fxpress.linear(a["x"], a["weight"], a["bias"], a["residual"], a.get("activation", "none"))
    return y


def _avg_pool(a: Arguments) -> Tensor:
    divisor = prod(a["kernel"]) if len(a["kernel"]) > 1 else None
    window = (a["kernel"], a["stride"], a["padding"], a["ceil_mode"])
    y: Tensor = fxpress.avg_pool(a["x"], *window, True, divisor, a["channels_last"])
    return y


def _max_pool(a: Arguments) -> Tensor:
    window = (a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"])
    y: Tensor = fxpress.max_pool(a["x"], *window, a["channels_last"])
    return y


def _attention(a: Arguments) -> Tensor:
    return F.scaled_dot_product_attention(
        a["query"], a["key"], a["value"], a["attn_mask"],
        is_causal=a["is_causal"], scale=a["scale"], enable_gqa=a["enable_gqa"],
    )  # fmt: skip


SURROGATES: dict[Any, Callable[[Arguments], Tensor]] = {
    fxpress.quantize.default: lambda a: a["x"],
    fxpress.dequantize.default: lambda a: a["x"],
    fxpress.requantize.default: lambda a: a["x"],
    fxpress.quantized_conv.default: _conv,
    fxpress.quantized_conv_float.default: _conv,
    fxpress.quantized_linear.default: _linear,
    fxpress.quantized_linear_float.default: _linear,
    fxpress.dynamic_linear.default: _linear,
    fxpress.quantized_matmul.default: lambda a: torch.matmul(a["a"], a["b"]),
    fxpress.quantized_matmul_float.default: lambda a: torch.matmul(a["a"], a["b"]),
    fxpress.quantized_add.default: lambda a: a["a"] + a["b"],
    fxpress.quantized_avg_pool.default: _avg_pool,
    fxpress.quantized_max_pool.default: _max_pool,
    fxpress.quantized_attention.default: _attention,
}
