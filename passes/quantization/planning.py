"""From a fused float32 Program, a config and calibration data to a Plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...ops import fxpress
from ...ops.activation import activate
from ...program import Program
from ...target import Target
from .algorithms import find_algorithms
from .calibration import Calibration
from .integer_ops import activation_of, centered_operands, has_table, values_of
from .integer_targets import integer_ops
from .placement import Placement, place
from .plan import LayerPlan, Plan, StoredPlan
from .scheme import QParams, QuantConfig, Range
from .scopes import Scope
from .weights import overflow_of, quantize_weight, weight_scales

FLAT_POINTS = 4096
FLAT_STEP = 0.25
"""An end of a range is cut off where the activation after it moves by less than that part of its result's scale."""


@dataclass(frozen=True)
class Choice:
    """What becomes of a node that could compute with integers: "float32", or a linear layer's "int8-weights"; why."""

    width: str
    reason: str


class Decider(ABC):
    """Who has a say in which nodes become integer. Asked again and again until it agrees; see `make_plan`."""

    @abstractmethod
    def choose(self, plan: Plan) -> Mapping[str, Choice] | None:
        """All its choices by node name, on seeing the plan that its last ones led to; None when that may stay."""


def make_plan(
    program: Program,
    config: QuantConfig,
    calibration: Calibration,
    target: Target,
    *,
    ignore: Sequence[Scope] = (),
    only: Sequence[Scope] = (),
    cache: Path | None = None,
    early: Decider | None = None,
    late: Decider | None = None,
) -> Plan:
    """Decide everything about quantising `program`, which the pipeline "default" has fused.

    Runs the config's algorithms, the calibration data once, and leaves a layer in float32 where 32-bit sums could
    overflow. `early` has its say before algorithms refine weights, `late` after that. Raises InvalidInput for weights
    that are not finite, and what Calibration, the scopes and the deciders raise.
    """
    algorithms = find_algorithms(config.algorithms)
    _check_weights(program, config, place(program, target, config, ignore=ignore, only=only))
    for algorithm in algorithms:
        program = algorithm.prepare(program, config, calibration)

    def planned(choices: Mapping[str, Choice]) -> Plan:
        """The plan with these choices made, 32-bit sums looked after."""
        refused = {name: choice.reason for name, choice in choices.items()}
        while True:
            placement = place(program, target, config, ignore=ignore, only=only, refused=refused)
            if config.is_static:
                plan = _plan(program, config, calibration, placement, target, cache)
            else:
                plan = _plan_weights(program, config, calibration, placement)
            overflows = _overflows(plan)
            if not overflows:
                _store_weights(plan, choices)
                return plan
            refused |= overflows

    def refined(choices: Mapping[str, Choice]) -> Plan:
        """The same, its weights and scales improved."""
        plan = planned(choices)
        for algorithm in algorithms:
            algorithm.refine(plan, calibration)
        return plan

    choices, _ = _settled(early, planned, {}) if early is not None else ({}, None)
    return _settled(late, refined, choices)[1]


def _settled(
    decider: Decider | None, make: Callable[[Mapping[str, Choice]], Plan], fixed: Mapping[str, Choice]
) -> tuple[Mapping[str, Choice], Plan]:
    """The choices, those `fixed` among them, that the decider agrees to, and their plan."""
    choices, plan = fixed, make(fixed)
    while decider is not None and (wanted := decider.choose(plan)) is not None:
        choices = {**fixed, **wanted}
        plan = make(choices)
    return choices, plan


def _overflows(plan: Plan) -> dict[str, str]:
    return {
        name: f"its sums could reach {bound}, more than 32 bits hold"
        for name, layer in plan.layers.items()
        if (bound := overflow_of(layer.integers, layer.integer_bias)) is not None
    }


def _store_weights(plan: Plan, choices: Mapping[str, Choice]) -> None:
    """Let the layers that are to have integer weights alone have them."""
    config = replace(plan.config, activation_bits=None, dynamic=False)
    for node in plan.program.nodes:
        if node.name in plan.left and node.name in choices and choices[node.name].width == "int8-weights":
            del plan.left[node.name]
            plan.stored[node.name] = StoredPlan.of(node.name, _weight_and_bias(plan.program, node)[0], config)


def _plan_weights(program: Program, config: QuantConfig, calibration: Calibration, placement: Placement) -> Plan:
    """A Plan whose activations stay float32: weights of linear layers, and embedding tables."""
    plan = Plan(program, config, calibration)
    plan.tables = {node.name for node in placement.tables}
    plan.left = {node.name: reason for node, reason in placement.left.items()}
    for node in placement.layers:
        if node.target is fxpress.linear.default:
            plan.stored[node.name] = StoredPlan.of(node.name, _weight_and_bias(program, node)[0], config)
        else:
            plan.left[node.name] = "only linear layers have kernels with integer weights and float32 activations"
    return plan


def _plan(
    program: Program,
    config: QuantConfig,
    calibration: Calibration,
    placement: Placement,
    target: Target,
    cache: Path | None,
) -> Plan:
    table = integer_ops(target)
    weights = {node: _weight_and_bias(program, node) for node in placement.layers if table[node.target].role == "layer"}
    inner = [node for node in weights if node in placement.integer and has_table(node)]
    observed = {
        node.name: index
        for index, values in enumerate(placement.scale_sets)
        for node in values
        if node not in placement.integer or not table[node.target].keeps_scale
    }
    ranges, inner_ranges = calibration.observe(
        program,
        list(observed),
        [node.name for node in inner],
        observer=config.observer,
        symmetric=config.symmetric,
        cache=cache,
    )
    plan = Plan(program, config, calibration, {node.name for node in placement.integer})
    plan.tables = {node.name for node in placement.tables}
    plan.left = {node.name: reason for node, reason in placement.left.items()}
    computing = placement.integer | set(placement.layers)
    centered = {x for node in computing for x in centered_operands(node, table[node.target])}
    for index, values in enumerate(placement.scale_sets):
        own = [ranges[name] for name, number in observed.items() if number == index]
        low, high = min(low for low, _ in own), max(high for _, high in own)
        qparams = QParams.of_range(low, high, symmetric=config.symmetric or not centered.isdisjoint(values))
        plan.values |= {node.name: qparams for node in values}
    for node in inner:
        wanted = _steep_part(inner_ranges[node.name], activation_of(node), plan.values[node.name].scale)
        plan.inner[node.name] = QParams.of_range(*wanted, symmetric=config.symmetric)
    for node, (weight, bias) in weights.items():
        x = plan.values[values_of(node)["x"].name]
        y = plan.inner.get(node.name, plan.values[node.name]) if node in placement.integer else None
        scale = weight_scales(weight, bias, x, per_channel=config.per_channel, method=config.weight_range)
        plan.layers[node.name] = LayerPlan(node.name, weight, bias, scale, quantize_weight(weight, scale), x, y)
    if calibration.generated:
        plan.notes.append("no calibration data was given: ranges are those of generated inputs")
    return plan


def _check_weights(program: Program, config: QuantConfig, placement: Placement) -> None:
    """Raise InvalidInput for weights that are not finite, before algorithms spread them to other layers."""
    for node in placement.layers:
        if "weight" in values_of(node) and (config.is_static or node.target is fxpress.linear.default):
            _weight_and_bias(program, node)


def _weight_and_bias(program: Program, node: Node) -> tuple[Tensor, Tensor]:
    """A layer's float32 weight, and its bias, zeros where it has none. Raises InvalidInput where one is not finite."""
    values = values_of(node)
    weight = program.constant(values["weight"])
    bias = torch.zeros(weight.shape[0]) if values["bias"] is None else program.constant(values["bias"])
    for name, tensor in (("weight", weight), ("bias", bias)):
        if not bool(tensor.isfinite().all()):
            source = node.meta.get("source", "")
            raise InvalidInput(
                f"{name} of %{node.name}{f' ({source})' if source else ''} must hold finite numbers, not NaN or "
                "infinity; repair the model, or leave the layer in float32 with ignore="
            )
    return weight, bias.float()


def _steep_part(seen: Range, activation: str, scale: float) -> Range:
    """The part of `seen` on which the activation moves: its flat ends, such as gelu below -4, need no integers."""
    low, high = seen
    if not low < high:
        return seen
    points = torch.linspace(low, high, FLAT_POINTS, dtype=torch.float64)
    results = activate(points, activation)
    limit = FLAT_STEP * scale
    below = ((results - results[0]).abs() > limit).nonzero()
    above = ((results - results[-1]).abs() > limit).nonzero()
    if len(below) == 0:
        return seen
    return float(points[max(int(below[0]) - 1, 0)]), float(points[min(int(above[-1]) + 1, FLAT_POINTS - 1)])
