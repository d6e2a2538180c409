"""The Plan: everything that quantisation decides before it rewrites a Program.

A Plan belongs to one fused float32 Program and speaks of its nodes by name. Algorithms change the Program before it is
calibrated, or the Plan after: a layer's weights and bias, its integers, the scales of values. `quantize_ops` then
writes what the Plan says and decides nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

from ...report.decisions import Decisions
from .scheme import QParams, QuantConfig
from .weights import integer_bias, quantize_weight, store_weight, weight_scales

if TYPE_CHECKING:
    from ...program import Program
    from .calibration import Calibration


@dataclass(frozen=True)
class LayerPlan:
    """A convolution or linear layer with constant weights that will compute with integers.

    `weight` (float32, PyTorch's order) and `bias` (float32, [oc]) may have been corrected by algorithms. `weight_scale`
    (float32, [oc]) and `integers` (int8, the weight's shape, within +-127) belong together. `x` are the parameters of
    the input, `y` those of the result before an activation that becomes a table, None where the result is float32.
    """

    node: str
    weight: Tensor
    bias: Tensor
    weight_scale: Tensor
    integers: Tensor
    x: QParams
    y: QParams | None

    @property
    def integer_bias(self) -> Tensor:
        """The int64 bias in units of x.scale * weight_scale, the input's zero point folded in."""
        return integer_bias(self.bias, self.integers, self.weight_scale, self.x)

    @property
    def dequantized_weight(self) -> Tensor:
        """What the integers stand for, float32."""
        return self.integers.to(torch.float32) * self.weight_scale.reshape(-1, *[1] * (self.weight.dim() - 1))

    def with_weight(self, weight: Tensor, bias: Tensor | None = None, *, config: QuantConfig) -> LayerPlan:
        """The same layer with other float weights (and bias), rounded to the nearest integers anew."""
        bias = self.bias if bias is None else bias
        scale = weight_scales(weight, bias, self.x, per_channel=config.per_channel, method=config.weight_range)
        integers = quantize_weight(weight, scale)
        return replace(self, weight=weight, bias=bias, weight_scale=scale, integers=integers)


@dataclass(frozen=True)
class StoredPlan:
    """A linear layer that computes in float32 with a weight stored in few bits, or quantises its rows at run time.

    `stored`, `scale` and `zero` are as `fxpress::weight_only_linear` defines them for `bits` and `group`; for a
    dynamic layer `stored` is int8 with one scale an output channel.
    """

    node: str
    weight: Tensor
    stored: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int
    group: int

    @staticmethod
    def of(node: str, weight: Tensor, config: QuantConfig) -> StoredPlan:
        """`weight` [n, k] rounded to the nearest integers, as `config` says."""
        group = config.group if config.weight_bits == 4 else weight.shape[1]
        stored, scale, zero = store_weight(weight, config.weight_bits, group, symmetric=config.symmetric_weights)
        return StoredPlan(
            node, weight, stored, scale[:, 0] if config.dynamic else scale, zero, config.weight_bits, group
        )


@dataclass
class Plan:
    """What becomes of each node of `program`, a fused float32 Program.

    `integer` names the nodes whose result will be an int8 value; `values[name]` are the parameters of every value that
    exists as int8 somewhere, be it the result of an integer node or a float32 value that is quantised for its users;
    `inner[name]` those of a layer's result before its activation, where that becomes a table. `layers` are the
    integer layers, `stored` the linear layers of which only the weight is integer, `tables` the embeddings with int8
    rows. `left` says why a node that could have become integer stays float32, `notes` what else a report should say,
    `decisions` on which numbers each layer's width was decided.
    """

    program: Program
    config: QuantConfig
    calibration: Calibration | None
    integer: set[str] = field(default_factory=set)
    values: dict[str, QParams] = field(default_factory=dict)
    inner: dict[str, QParams] = field(default_factory=dict)
    layers: dict[str, LayerPlan] = field(default_factory=dict)
    stored: dict[str, StoredPlan] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    decisions: Decisions = field(default_factory=lambda: Decisions(()))

    def node(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.program.graph.nodes if node.name == name)

    def text(self) -> str:
        """The Plan, readable: one line a node that is integer, quantised, or left in float32."""
        lines = list(self.notes)
        for node in self.program.graph.nodes:
            name = node.name
            parts = ["int8" if name in self.integer else ""]
            if name in self.layers:
                layer = self.layers[name]
                parts.append(f"layer x={_params(layer.x)} y={_params(layer.y) if layer.y else 'float32'}")
            if name in self.values:
                parts.append(_params(self.values[name]))
            if name in self.stored:
                parts.append(f"weight in {self.stored[name].bits} bits, {self.stored[name].group} a scale")
            if name in self.tables:
                parts.append("int8 rows")
            if name in self.left:
                parts.append(f"stays float32: {self.left[name]}")
            if any(parts):
                lines.append(f"%{name}: {' '.join(part for part in parts if part)}")
        return "\n".join(lines) + "\n"


def _params(p: QParams) -> str:
    return f"{p.scale:.6g}*(q{-p.zero:+d})" if p.zero else f"{p.scale:.6g}*q"
