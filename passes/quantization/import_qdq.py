"""quantized_decomposed.dequantize_per_tensor(quantize_per_tensor(x))  ->  fxpress.dequantize(fxpress.quantize(x))"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ...ops import fxpress
from ...ops.requantization import HIGHEST, LOWEST
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ..match import arguments, is_constant

aten = torch.ops.aten

NAMESPACE = "quantized_decomposed"
SHIFTS = {torch.int8: 0, torch.uint8: LOWEST}
"""The integer types that activations may have, and what makes int8 of them."""
QUANTIZE = (f"{NAMESPACE}::quantize_per_tensor",)
DEQUANTIZE = (f"{NAMESPACE}::dequantize_per_tensor", f"{NAMESPACE}::dequantize_per_channel")


@dataclass(frozen=True)
class ImportQdq(Pass):
    """quantized_decomposed.dequantize_per_tensor(quantize_per_tensor(x))  ->  fxpress.dequantize(quantize(x))

    These are the ops with which PT2E quantizers (torchao's among them) annotate a program. uint8 becomes int8, with a
    zero point less by 128. A range of fewer integers becomes a clamp before quantising. Dequantised constants are
    folded: `adopt-qdq` finds their integers again. Types other than int8 and uint8, and parameters that are computed
    at run time (dynamic quantisation), stay as they are.
    """

    name: ClassVar[str] = "import-qdq"
    accuracy: ClassVar[Accuracy] = "exact"

    def run(self, program: Program, rw: Rewriter) -> None:
        for node in program.nodes:
            if rw.erased(node) or not rw.has_fuel():
                continue
            if getattr(node.target, "namespace", None) == NAMESPACE and _kind(node) not in QUANTIZE:
                new = _imported(node, rw)
                if isinstance(new, Node):
                    rw.replace(node, new)
                    rw.burn()
                else:
                    rw.skip(node, new)


def _imported(node: Node, rw: Rewriter) -> Node | str:
    """What takes the node's place, or why nothing can."""
    if _kind(node) not in DEQUANTIZE:
        return "ranges that are computed at run time have no integer form; use a static quantisation"
    values = arguments(node)
    source = values["input"]
    if is_constant(source):
        return _constant(node, source, rw)
    if "scales" in values:
        return "a computed value must have one scale, not one for each channel"
    parameters = _parameters(values, rw)
    if isinstance(parameters, str):
        return parameters
    if values["out_dtype"] not in (None, torch.float32):
        return f"its result is {values['out_dtype']}, not float32"
    scale, zero, low, high = parameters
    if _kind(source) in QUANTIZE:
        given = arguments(source)
        if given["dtype"] != values["dtype"] or _parameters(given, rw) != parameters:
            return f"%{source.name} quantises with other parameters"
        x = given["input"]
        if (low, high) != (LOWEST, HIGHEST):
            x = rw.call(aten.clamp.default, x, (low - zero) * scale, (high - zero) * scale, at=node)
        source = rw.call(fxpress.quantize.default, x, scale, zero, at=node)
    elif values["dtype"] != torch.int8:
        return "its uint8 integers come from another op than quantize_per_tensor"
    return rw.call(fxpress.dequantize.default, source, scale, zero, at=node)


def _kind(node: Node) -> str:
    return str(node.target._schema.name) if isinstance(node.target, torch._ops.OpOverload) else node.op


def _constant(node: Node, source: Node, rw: Rewriter) -> Node | str:
    """The float32 constant that a dequantised constant is."""
    if not all(is_constant(operand) for operand in node.all_input_nodes):
        return "its scale or zero point is computed"
    args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), rw.value)
    with torch.no_grad():
        return rw.constant(f"{source.target}_dequantized", node.target(*args, **kwargs).contiguous())


def _parameters(values: dict[str, Any], rw: Rewriter) -> tuple[float, int, int, int] | str:
    """Scale, zero point, lowest and highest integer, as of int8; or why they cannot be had."""
    if values["dtype"] not in SHIFTS:
        return f"its integers are {str(values['dtype']).removeprefix('torch.')}, not int8 or uint8"
    numbers = [_number(values[name], rw) for name in ("scale", "zero_point", "quant_min", "quant_max")]
    if None in numbers:
        return "its scale or zero point is computed at run time; use a static quantisation"
    scale, zero, low, high = numbers
    shift = SHIFTS[values["dtype"]]
    return float(scale), int(zero) + shift, int(low) + shift, int(high) + shift


def _number(value: Any, rw: Rewriter) -> Any:
    """The number that an argument is, None when it is computed."""
    if not isinstance(value, Node):
        return value
    tensor = rw.value(value)
    return None if tensor is None else tensor.item()
