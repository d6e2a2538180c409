"""Walks a Plan's Program over items of calibration data, node by node, in float32 and as the Plan quantises it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from ...ops.activation import activate
from ...ops.requantization import HIGHEST, LOWEST
from ...program import Program
from .integer_ops import activation_of, values_of
from .plan import LayerPlan, Plan
from .quantize_ops import row_scales
from .scheme import QParams
from .weights import overflow_of, quantize_weight


@dataclass(frozen=True)
class LayerSight:
    """What a walk sees when it comes to a layer: one tensor an item in each list.

    `exact` are the layer's inputs in the float32 model and `wanted` what it makes of them, before residual and
    activation; `rounded` are the inputs that the integers before it give. Algorithms bring `sums(rounded)` of the
    integer layer close to `wanted`.
    """

    node: Node
    layer: LayerPlan
    exact: Sequence[Tensor]
    rounded: Sequence[Tensor]
    wanted: Sequence[Tensor]

    @functools.cached_property
    def sums(self) -> list[Tensor]:
        """What the integer layer makes of its rounded inputs, before residual and activation."""
        return layer_sums(self.node, self.rounded, self.layer.dequantized_weight, self.layer.bias)

    @property
    def channel_dim(self) -> int:
        """The dim of `wanted` and `sums` that holds the output channels."""
        return channel_dim_of(self.node)


Improve = Callable[[LayerSight], LayerPlan]


Results = list[tuple[Any, ...]]
"""The Program's results for each item."""


def walk(
    plan: Plan, items: Iterable[Sequence[Tensor]], improve: Improve = lambda sight: sight.layer
) -> tuple[Results, Results]:
    """Visit the plan's layers in order, each with what the integer layers before it give; keep what `improve` returns,
    except where 32-bit sums could overflow.

    Returns the results in float32 and as quantised. Values of all items are in memory from the node that makes them to
    the last that reads them.
    """
    with torch.no_grad():
        return _Walk(plan, list(items), improve).run()


def sample(items: Iterable[Sequence[Tensor]], count: int) -> list[Sequence[Tensor]]:
    """`count` of the items (or all, if there are fewer), each as likely as the others, the same in every run."""
    chance = random.Random(0)
    kept: list[Sequence[Tensor]] = []
    for number, item in enumerate(items):
        if len(kept) < count:
            kept.append(item)
        elif (place := chance.randrange(number + 1)) < count:
            kept[place] = item
    return kept


def layer_sums(node: Node, xs: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """What the layer `node` with these constants makes of inputs, before residual and activation."""
    values = values_of(node) | {"weight": weight, "bias": bias, "activation": "none"}
    if "residual" in values:
        values["residual"] = None
    return [node.target(*(values | {"x": x}).values()) for x in xs]


def channel_dim_of(node: Node) -> int:
    """The dim of a layer's result that holds its channels."""
    return -1 if values_of(node).get("channels_last", True) else 1


def round_to(x: Tensor, params: QParams) -> Tensor:
    """`x` as int8 with these parameters holds it."""
    return torch.fake_quantize_per_tensor_affine(x, params.scale, params.zero, LOWEST, HIGHEST)


class _Walk:
    def __init__(self, plan: Plan, items: list[Sequence[Tensor]], improve: Improve) -> None:
        self._plan = plan
        self._program: Program = plan.program
        self._improve = improve
        self._items = items
        self._exact: dict[Node, list[Any]] = {}
        self._rounded: dict[Node, list[Any]] = {}

    def run(self) -> tuple[Results, Results]:
        last_use = {operand: node for node in self._program.nodes for operand in node.all_input_nodes}
        placeholders = iter(range(len(self._program.placeholders)))
        for node in self._program.nodes:
            if node.op == "call_function":
                self._visit(node)
            elif node.op != "output":
                self._start(node, placeholders)
            for operand in node.all_input_nodes:
                if last_use[operand] is node and node.op != "output":
                    self._exact.pop(operand, None)
                    self._rounded.pop(operand, None)
        return self._results(self._exact), self._results(self._rounded)

    def _results(self, values: dict[Node, list[Any]]) -> Results:
        return [tuple(values[node][i] for node in self._program.results) for i in range(len(self._items))]

    def _start(self, node: Node, placeholders: Any) -> None:
        if node.op == "placeholder":
            index = next(placeholders)
            values = [item[index] for item in self._items]
        else:
            values = [self._program.constant(node)] * len(self._items)
        self._exact[node] = self._rounded[node] = values

    def _visit(self, node: Node) -> None:
        if node.name in self._plan.layers:
            self._visit_layer(node)
            return
        exact = [self._call(node, self._exact, i) for i in range(len(self._items))]
        self._exact[node] = exact
        if node.name in self._plan.tables:
            self._rounded[node] = self._embed(node)
        elif node.name in self._plan.integer:
            self._rounded[node] = self._integer_call(node)
        elif all(self._rounded[x] is self._exact[x] for x in node.all_input_nodes):
            self._rounded[node] = exact
        else:
            self._rounded[node] = [self._call(node, self._rounded, i) for i in range(len(self._items))]

    def _call(self, node: Node, values: dict[Node, list[Any]], index: int) -> Any:
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda x: values[x][index])
        return node.target(*args, **kwargs)

    def _integer_value(self, node: Node) -> list[Any]:
        """The rounded values of a node as integers' readers find them."""
        params = self._plan.values.get(node.name)
        if params is None:
            return self._rounded[node]
        return [round_to(x, params) if isinstance(x, Tensor) else x for x in self._rounded[node]]

    def _integer_call(self, node: Node) -> list[Any]:
        values = {x: self._integer_value(x) for x in node.all_input_nodes}
        results = [self._call(node, values, i) for i in range(len(self._items))]
        params = self._plan.values.get(node.name)
        return [round_to(y, params) if isinstance(y, Tensor) and params else y for y in results]

    def _embed(self, node: Node) -> list[Tensor]:
        values = dict(self._rounded)
        table = self._program.constant(node.args[0])
        scale = row_scales(table)
        table = quantize_weight(table, scale) * scale.unsqueeze(1)
        values[node.args[0]] = [table] * len(self._items)
        return [self._call(node, values, i) for i in range(len(self._items))]

    def _visit_layer(self, node: Node) -> None:
        values, layer = values_of(node), self._plan.layers[node.name]
        rounded = [round_to(x, layer.x) for x in self._rounded[values["x"]]]
        bias = self._program.constant(values["bias"]) if values["bias"] is not None else None
        weight = self._program.constant(values["weight"])
        wanted = layer_sums(node, self._exact[values["x"]], weight, bias)
        sight = LayerSight(node, layer, self._exact[values["x"]], rounded, wanted)
        better = self._improve(sight)
        if overflow_of(better.integers, better.integer_bias) is not None:
            better = layer
        self._plan.layers[node.name] = better
        if better.integers is layer.integers and better.weight_scale is layer.weight_scale:
            dim = channel_dim_of(node)
            shift = (better.bias - layer.bias).reshape(-1, *[1] * (0 if dim == -1 else wanted[0].dim() - 2))
            sums = [y + shift for y in sight.sums]
        else:
            sums = layer_sums(node, rounded, better.dequantized_weight, better.bias)
        activation, residual = activation_of(node), values.get("residual")
        self._exact[node] = _finish(wanted, None if residual is None else self._exact[residual], activation)
        if node.name not in self._plan.integer:
            self._rounded[node] = _finish(sums, None if residual is None else self._rounded[residual], activation)
            return
        inner, params = self._plan.inner.get(node.name), self._plan.values[node.name]
        sums = _finish(sums, None if residual is None else self._integer_value(residual), "none")
        sums = [round_to(y, inner) for y in sums] if inner is not None else sums
        self._rounded[node] = [round_to(activate(y, activation), params) for y in sums]


def _finish(sums: list[Tensor], residual: list[Any] | None, activation: str) -> list[Any]:
    added = sums if residual is None else [y + r for y, r in zip(sums, residual, strict=True)]
    return [activate(y, activation) for y in added]
