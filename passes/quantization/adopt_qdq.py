"""quantize(op(dequantize(x)))  ->  the integer form of op, with the scales that are there"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...ops import fxpress
from ...ops.activation import parse_activation
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ...target import Target
from ..match import arguments, is_call, is_constant, only_user
from .integer_ops import CLAMPS, ROLES, IntegerOp, activation_of, has_table, operands_of, values_of, why_float
from .integer_targets import Integers, integers_of
from .plan import LayerPlan, Plan
from .quantize_ops import QuantizeOps
from .scheme import QParams, QuantConfig
from .weights import LARGEST, overflow_of

aten = torch.ops.aten

STEPS = 128
"""The largest integer of a weight that another tool quantised: it may have -128."""
MOVES = (aten.permute.default, aten.reshape.default, aten.slice.Tensor, aten.unsqueeze.default, aten.squeeze.dims)
"""Views that layouts and their simplification put between a quantize and its dequantize."""
SAMPLE = 64
TOLERANCE = 1e-3
"""How far from a whole number of steps a float32 weight may be (float32 is off by 128 * 2^-23 steps at most)."""


@dataclass(frozen=True)
class AdoptQdq(Pass):
    """quantize(op(dequantize(x)))  ->  the integer form of op, with the scales that are there

    `dequantize(quantize(x))` marks that a value is rounded to integers, as `import-qdq` leaves it. An op computes with
    integers where its operands are so marked and its result is, or where it is a layer, which may give float32. A
    layer's weights must lie on a grid of at most 128 steps either side in each channel; -128 itself becomes -127. What
    does not fit stays float32 between dequantize and quantize, and the pass says why.
    """

    name: ClassVar[str] = "adopt-qdq"
    accuracy: ClassVar[Accuracy] = "lossy"

    def run(self, program: Program, rw: Rewriter) -> None:
        if not any(_is_marker(node) for node in program.nodes):
            return
        plan = _Reader(program, integers_of(rw.target or Target.parse("cpu"))).plan()
        QuantizeOps(plan).run(program, rw)
        for node in program.nodes:
            if not rw.erased(node):
                _drop_requantize(node, rw)


def _is_marker(node: Node) -> bool:
    """Whether the node dequantises what was just quantised, or an input; views may lie between."""
    if not is_call(node, fxpress.dequantize.default):
        return False
    x = node.args[0]
    while x.op == "call_function" and len(x.all_input_nodes) == 1 and x.target is not fxpress.quantize.default:
        if x.target not in MOVES:
            return False
        x = x.all_input_nodes[0]
    return x.op == "placeholder" or is_call(x, fxpress.quantize.default)


def _drop_requantize(node: Node, rw: Rewriter) -> None:
    """quantize(dequantize(x)) with the same scale and zero point is x."""
    if is_call(node, fxpress.quantize.default):
        x = node.args[0]
        if is_call(x, fxpress.dequantize.default) and x.args[1:] == node.args[1:]:
            rw.replace(node, x.args[0])


class _Reader:
    """Makes a Plan of the markers of a Program."""

    def __init__(self, program: Program, integers: Integers) -> None:
        self._program = program
        self._plan = Plan(program, QuantConfig(mode=integers.modes[0]), None)
        self._ops = {
            node: integers.ops[node.target]
            for node in program.nodes
            if node.op == "call_function" and node.target in integers.ops and ROLES[node.target] != "embedding"
        }
        self._params: dict[Node, QParams] = {}

    def plan(self) -> Plan:
        plan, nodes = self._plan, self._program.nodes
        for node in nodes:
            if _is_marker(node):
                self._params[node] = _qparams(node)
        for node in reversed(nodes):
            self._take_from_user(node)
        for node in nodes:
            op = self._ops.get(node)
            if op is None:
                continue
            self._take_from_operands(node, op)
            if not self._all_marked(operands_of(node, op)):
                if op.role == "layer" and self._is_on_grid(node):
                    plan.left[node.name] = "its weights are quantised, but its input is not"
                continue
            reason = why_float(node, op) or self._add(node, op)
            if reason is not None and op.role != "move":
                plan.left[node.name] = reason
        plan.values = {node.name: params for node, params in self._params.items()}
        return plan

    def _take_from_user(self, node: Node) -> None:
        """A value that is only quantised, or only clamped or moved and then quantised, has the parameters of that."""
        user = only_user(node)
        if user is None or node in self._params or node not in self._ops:
            return
        if is_call(user, fxpress.quantize.default):
            self._params[node] = _qparams(user)
        elif user in self._params and user in self._ops and _keeps_scale(user, self._ops[user]):
            self._params[node] = self._params[user]

    def _take_from_operands(self, node: Node, op: IntegerOp) -> None:
        """What moves integers without changing them has its operands' parameters."""
        operands = operands_of(node, op)
        if op.keeps_scale and node not in self._params and self._all_marked(operands):
            first, *others = (self._params[x] for x in operands)
            if all(other == first for other in others):
                self._params[node] = first

    def _all_marked(self, values: list[Any]) -> bool:
        return bool(values) and all(isinstance(x, Node) and x in self._params for x in values)

    def _add(self, node: Node, op: IntegerOp) -> str | None:
        """Let the node compute with integers; or say why it does not."""
        plan = self._plan
        if op.role == "layer":
            return self._layer(node)
        if node not in self._params:
            return None if op.role in ("matmul", "move") else "its result is not quantised"
        if op.keeps_scale and any(self._params[x] != self._params[node] for x in operands_of(node, op)):
            return "its operands and its result have different scales"
        plan.integer.add(node.name)
        return None

    def _is_on_grid(self, node: Node) -> bool:
        weight = values_of(node)["weight"]
        return is_constant(weight) and grid_of(self._program.constant(weight)) is not None

    def _layer(self, node: Node) -> str | None:
        plan, values = self._plan, values_of(node)
        weight = self._program.constant(values["weight"])
        found = grid_of(weight)
        if found is None:
            return "its weights are not quantised to 8 bits, symmetrically in each output channel"
        scale, integers = found
        bias = torch.zeros(weight.shape[0]) if values["bias"] is None else self._program.constant(values["bias"])
        residual = values["residual"]
        whole = node in self._params and not has_table(node) and (residual is None or residual in self._params)
        y = self._params[node] if whole else None
        layer = LayerPlan(node.name, weight, bias.float(), scale, integers, self._params[values["x"]], y)
        bound = overflow_of(integers, layer.integer_bias)
        if bound is not None:
            return f"its sums could reach {bound}, more than 32 bits hold"
        plan.layers[node.name] = layer
        if whole:
            plan.integer.add(node.name)
        return None


def _qparams(node: Node) -> QParams:
    """The parameters of a quantize or dequantize."""
    values = arguments(node)
    return QParams(values["scale"], values["zero_point"])


def _keeps_scale(node: Node, op: IntegerOp) -> bool:
    """Whether the node's operand may have the parameters of its result: it moves values, or clamps them."""
    if op.role == "table":
        return parse_activation(activation_of(node))[0] in CLAMPS
    return op.role == "move" and len(node.all_input_nodes) == 1


def grid_of(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The scale of each row (float32, [oc]) and the integers (int8, within +-127) of a weight that was quantised.

    None where a row is no multiple, by integers of at most 128, of one step. The step is the largest that fits.
    """
    rows = weight.detach().double().flatten(1)
    largest = rows.abs().amax(1)
    if not bool(largest.isfinite().all()):
        return None
    scale = torch.zeros_like(largest)
    open_rows = largest > 0
    scale[~open_rows] = 1
    for steps in range(1, STEPS + 1):
        if not bool(open_rows.any()):
            break
        index = open_rows.nonzero().flatten()
        step = largest[index] / steps
        fits = _is_on_grid(rows[index][:, :SAMPLE], step)
        index, step = index[fits], step[fits]
        fits = _is_on_grid(rows[index], step)
        index, step = index[fits], step[fits]
        scale[index] = step
        open_rows[index] = False
    if bool(open_rows.any()):
        return None
    scale = scale.float()
    steps_ = (rows / scale.double()[:, None]).round().clamp(-LARGEST, LARGEST)
    return scale, steps_.to(torch.int8).reshape(weight.shape)


def _is_on_grid(rows: Tensor, step: Tensor) -> Tensor:
    multiples = rows / step[:, None]
    return ((multiples - multiples.round()).abs() <= TOLERANCE).all(1)
