"""conv(x), linear(x), x + y, avg_pool(x), gelu(x), ...  ->  their integer forms, as a Plan says"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...ops import fxpress
from ...ops.activation import activate, parse_activation
from ...ops.requantization import HIGHEST, LOWEST
from ...program import Program
from ...report.decisions import QUANTIZED
from ...rewriter import Accuracy, Pass, Rewriter
from ...target import Target
from ..match import shape
from .integer_ops import CLAMPS, Role, activation_of, operands_of, values_of, window_of
from .integer_targets import integer_ops
from .plan import LayerPlan, Plan
from .scheme import QParams
from .weights import quantize_weight, weight_scales

aten = torch.ops.aten

ORIGIN = "quantized_from"
"""Under this name a node's `meta` says which node of the Plan's Program it was made for."""
NO_QPARAMS = QParams(1.0, 0)
"""What an op is told of a residual that it does not have."""


@dataclass(frozen=True, eq=False)
class QuantizeOps(Pass):
    """conv(x), linear(x), x + y, avg_pool(x), gelu(x), ...  ->  their integer forms, as a Plan says

    Every int8 value that has float32 users is dequantised for them, every float32 value with integer users quantised
    once. A layer whose result is float32 keeps its residual and activation in float32.
    """

    name: ClassVar[str] = QUANTIZED
    accuracy: ClassVar[Accuracy] = "lossy"
    establishes: ClassVar[tuple[str, ...]] = ("quantized",)
    plan: Plan | None = None

    def options(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name

    def run(self, program: Program, rw: Rewriter) -> None:
        if self.plan is None:
            raise InvalidInput("quantize-ops must be given a Plan, which fxpress.quantize makes; it has no default")
        _Writer(self.plan, rw).write(program)


class _Writer:
    """Rewrites node after node. The int8 form of a value stands beside its float32 form, which dies when unused."""

    def __init__(self, plan: Plan, rw: Rewriter) -> None:
        self._plan = plan
        self._rw = rw
        self._mode = plan.config.mode
        self._table = integer_ops(rw.target or Target.parse("cpu"))
        self._int8: dict[Node, Node] = {}
        self._params: dict[Node, QParams] = {}
        self._write: dict[Role, Callable[[Node], Node]] = {
            "layer": self._layer,
            "matmul": self._matmul,
            "attention": self._attention,
            "add": self._add,
            "average": self._average,
            "maximum": self._maximum,
            "move": self._move,
            "table": self._lookup,
        }

    def write(self, program: Program) -> None:
        plan, rw = self._plan, self._rw
        for node in program.nodes:
            if rw.erased(node):
                continue
            if node.name in plan.values:
                self._params[node] = plan.values[node.name]
            if node.name in plan.left:
                rw.skip(node, f"stays float32: {plan.left[node.name]}")
            op = self._table.get(node.target)
            if op is None or not rw.has_fuel():
                continue
            made = len(rw.made)
            if node.name in plan.tables:
                self._keep(node, self._embedding(node))
            elif node.name in plan.stored:
                self._keep(node, self._stored(node))
            elif node.name in plan.integer:
                self._replace(node, self._write[op.role](node))
            elif node.name in plan.layers or (op.role == "matmul" and self._has_integers(node)):
                self._keep(node, self._float_layer(node) if op.role == "layer" else self._float_matmul(node))
            for new in rw.made[made:]:
                new.meta[ORIGIN] = node.name
        for note in plan.notes:
            rw.skip(program.output_node, note)
        rw.decisions += plan.decisions.to_json()

    def _keep(self, node: Node, new: Node) -> None:
        """Let a float32 node take the place of another."""
        if node in self._params:
            self._params[new] = self._params[node]
        self._rw.burn()
        self._rw.replace(node, new)

    def _replace(self, node: Node, integer: Node) -> None:
        """Let an int8 node take the place of a float32 one: whoever wants float32 finds it dequantised."""
        rw = self._rw
        if isinstance(integer.meta["val"], list | tuple):
            self._int8[node] = integer  # its users are getitems, written next
            return
        params = self._params[node]
        rw.burn()
        dequantized = rw.call(fxpress.dequantize.default, integer, params.scale, params.zero, at=node)
        self._int8[dequantized] = integer
        self._params[dequantized] = params
        rw.replace(node, dequantized)

    def _integer(self, value: Node, at: Node) -> Node:
        """The int8 form of a value."""
        if value not in self._int8:
            params = self._params[value]
            quantized = self._rw.call(fxpress.quantize.default, value, params.scale, params.zero, at=at)
            self._int8[value] = quantized
        return self._int8[value]

    def _has_integers(self, node: Node) -> bool:
        return all(x in self._params for x in operands_of(node, self._table[node.target]))

    def _layer(self, node: Node) -> Node:
        """A layer with an int8 result."""
        values, layer = values_of(node), self._plan.layers[node.name]
        assert layer.y is not None
        residual = values["residual"]
        r = self._params[residual] if residual is not None else NO_QPARAMS
        activation = values["activation"]
        low, high = self._clip(layer.y, activation)
        weight, scale, bias = self._constants(values, layer)
        result = self._rw.call(
            fxpress.quantized_linear.default if "stride" not in values else fxpress.quantized_conv.default,
            *(self._integer(values["x"], node), weight, bias),
            self._integer(residual, node) if residual is not None else None,
            *(scale, layer.x.scale, layer.x.zero, r.scale, r.zero, layer.y.scale, layer.y.zero, low, high),
            *self._geometry(values),
            *((self._mode,) if "stride" not in values else (self._mode, values["channels_last"])),
            at=node,
        )
        if node.name not in self._plan.inner:
            return result
        return self._table_of(result, layer.y, self._params[node], activation, node)

    def _float_layer(self, node: Node) -> Node:
        """A layer with a float32 result."""
        values, layer = values_of(node), self._plan.layers[node.name]
        weight, scale, bias = self._constants(values, layer)
        operands = (self._integer(values["x"], node), weight, bias, values["residual"], scale)
        x, activation = (layer.x.scale, layer.x.zero), values["activation"]
        if "stride" not in values:
            return self._rw.call(fxpress.quantized_linear_float.default, *operands, *x, activation, at=node)
        rest = (*self._geometry(values), activation, values["channels_last"])
        return self._rw.call(fxpress.quantized_conv_float.default, *operands, *x, *rest, at=node)

    def _stored(self, node: Node) -> Node:
        """A linear layer that keeps float32 activations, or quantises their rows at run time."""
        values, plan, rw = values_of(node), self._plan.stored[node.name], self._rw
        name = str(values["weight"].target)
        stored, scale = rw.constant(f"{name}_int{plan.bits}", plan.stored), rw.constant(f"{name}_scale", plan.scale)
        operands = (values["x"], stored, values["bias"], values["residual"])
        if self._plan.config.dynamic:
            return rw.call(fxpress.dynamic_linear.default, *operands, scale, values["activation"], at=node)
        zero = None if plan.zero is None else rw.constant(f"{name}_zero", plan.zero)
        rest = (scale, zero, plan.bits, plan.group, values["activation"])
        return rw.call(fxpress.weight_only_linear.default, *operands, *rest, at=node)

    def _geometry(self, values: dict[str, Any]) -> tuple[Any, ...]:
        names = ("stride", "padding", "dilation", "groups")
        return tuple(values[name] for name in names) if "stride" in values else ()

    def _constants(self, values: dict[str, Any], layer: LayerPlan) -> tuple[Node, Node, Node]:
        """The integers, scales and int32 bias of a layer."""
        name = str(values["weight"].target)
        return (
            self._rw.constant(f"{name}_int8", layer.integers),
            self._rw.constant(f"{name}_scale", layer.weight_scale),
            self._rw.constant(f"{name}_bias_int32", layer.integer_bias.to(torch.int32)),
        )

    def _clip(self, y: QParams, activation: str) -> tuple[int, int]:
        """The lowest and highest integer of a result after its activation, where that is a clamp."""
        name, limits = parse_activation(activation)
        if name not in CLAMPS or name == "none":
            return LOWEST, HIGHEST
        low, high = {"relu": (0.0, None), "relu6": (0.0, 6.0)}.get(name, limits)
        return y.clip(low, high)

    def _table_of(self, x: Node, given: QParams, wanted: QParams, activation: str, at: Node) -> Node:
        """lookup(x, table), where the table holds the activation of every integer."""
        integers = torch.arange(LOWEST, HIGHEST + 1, dtype=torch.float64)
        real = activate((integers - given.zero) * given.scale, activation)
        table = (real / wanted.scale).round().add(wanted.zero).clamp(LOWEST, HIGHEST).to(torch.int8)
        name = parse_activation(activation)[0]
        return self._rw.call(fxpress.lookup.default, x, self._rw.constant(f"{name}_table", table), at=at)

    def _lookup(self, node: Node) -> Node:
        (operand,) = operands_of(node, self._table[node.target])
        x, activation = self._integer(operand, node), activation_of(node)
        clipped = self._clipped(x, operand, node, activation)
        if clipped is not None:
            return clipped
        return self._table_of(x, self._params[operand], self._params[node], activation, node)

    def _clipped(self, x: Node, operand: Node, node: Node, activation: str) -> Node | None:
        """relu(a + b)  ->  a sum whose lowest integer is 0's, when nothing else reads it; pools likewise."""
        if parse_activation(activation)[0] not in CLAMPS or x.target not in _CLIPPING:
            return None
        if set(operand.users) != {node} or set(x.users) - {operand}:
            return None
        y = self._params[node]
        low, high = self._clip(y, activation)
        return call_again_at(x, node, self._rw, y_scale=y.scale, y_zero=y.zero, low=low, high=high)

    def _add(self, node: Node) -> Node:
        a, b = operands_of(node, self._table[node.target])
        pa, pb, y = self._params[a], self._params[b], self._params[node]
        scales = (pa.scale, pa.zero, pb.scale, pb.zero, y.scale, y.zero)
        operands = (self._integer(a, node), self._integer(b, node))
        return self._rw.call(fxpress.quantized_add.default, *operands, *scales, LOWEST, HIGHEST, self._mode, at=node)

    def _matmul(self, node: Node) -> Node:
        a, b = operands_of(node, self._table[node.target])
        pa, pb, y = self._params[a], self._params[b], self._params[node]
        scales = (pa.scale, pa.zero, pb.scale, pb.zero, y.scale, y.zero)
        operands = (self._integer(a, node), self._integer(b, node))
        return self._rw.call(fxpress.quantized_matmul.default, *operands, *scales, LOWEST, HIGHEST, self._mode, at=node)

    def _float_matmul(self, node: Node) -> Node:
        a, b = operands_of(node, self._table[node.target])
        pa, pb = self._params[a], self._params[b]
        scales = (pa.scale, pa.zero, pb.scale, pb.zero)
        operands = (self._integer(a, node), self._integer(b, node))
        return self._rw.call(fxpress.quantized_matmul_float.default, *operands, *scales, at=node)

    def _attention(self, node: Node) -> Node:
        values, y = values_of(node), self._params[node]
        operands = operands_of(node, self._table[node.target])
        q, k, v = (self._params[x] for x in operands)
        scale = values["scale"] if values["scale"] is not None else shape(operands[0])[-1] ** -0.5
        how = (values["attn_mask"], values["is_causal"], float(scale), values["enable_gqa"])
        scales = (q.scale, k.scale, k.zero, v.scale, v.zero, y.scale, y.zero)
        integers = [self._integer(x, node) for x in operands]
        return self._rw.call(fxpress.quantized_attention.default, *integers, *how, *scales, at=node)

    def _average(self, node: Node) -> Node:
        (operand,) = operands_of(node, self._table[node.target])
        window = window_of(node)
        assert window is not None
        x, y = self._params[operand], self._params[node]
        pooled = self._rw.call(
            fxpress.quantized_avg_pool.default,
            *(self._integer(operand, node), window.kernel, window.stride, window.padding, window.ceil_mode),
            *(x.scale, x.zero, y.scale, y.zero, LOWEST, HIGHEST, self._mode, window.channels_last),
            at=node,
        )
        if shape(pooled) == shape(node):
            return pooled
        return self._rw.call(aten.reshape.default, pooled, list(shape(node)), at=node)

    def _maximum(self, node: Node) -> Node:
        values = values_of(node)
        rest = [values[name] for name in ("kernel", "stride", "padding", "dilation", "ceil_mode", "channels_last")]
        return self._rw.call(fxpress.quantized_max_pool.default, self._integer(values["x"], node), *rest, at=node)

    def _move(self, node: Node) -> Node:
        args = torch.fx.map_arg(node.args, lambda x: self._integer(x, node))
        return self._rw.call(node.target, *args, at=node, **node.kwargs)

    def _embedding(self, node: Node) -> Node:
        values = values_of(node)
        table = self._rw.value(values["weight"])
        assert table is not None
        scale = row_scales(table)
        name = str(values["weight"].target)
        integers = self._rw.constant(f"{name}_int8", quantize_weight(table, scale))
        scales = self._rw.constant(f"{name}_scale", scale)
        return self._rw.call(fxpress.quantized_embedding.default, integers, scales, values["indices"], at=node)


_CLIPPING = (fxpress.quantized_add.default, fxpress.quantized_avg_pool.default)


def row_scales(table: Tensor) -> Tensor:
    """The scale of each row of an embedding table (float32)."""
    return weight_scales(table, torch.zeros(table.shape[0]), NO_QPARAMS)


def call_again_at(node: Node, at: Node, rw: Rewriter, **changed: Any) -> Node:
    """A new call of the node's op before `at`, with some of its arguments changed."""
    values = values_of(node) | changed
    return rw.call(node.target, *values.values(), at=at)
