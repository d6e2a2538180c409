"""From what a user asks for (profitable, budget, pins) to a Plan whose decisions are all on record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch.fx import Node

from ...cpu import CpuTarget
from ...errors import InvalidInput, Unsupported
from ...kernel_times import How, KernelTimes
from ...printer import op_name
from ...program import Program
from ...progress import Progress
from ...report.decisions import Decisions, LayerDecision
from ...target import Target
from .budget import Budget
from .calibration import Calibration
from .costs import Costs, Measure, layer_bytes
from .integer_ops import ROLES
from .integer_targets import integer_ops
from .mixed_precision import MixedPrecision
from .plan import Plan
from .planning import make_plan
from .profitability import Profitability
from .scheme import QuantConfig
from .scopes import Scope, matches, select
from .sensitivity import Noise

Profitable = Literal["measure", "predict", "off"]
HOW: Mapping[str, How] = {"measure": "measured", "predict": "predicted", "off": "measured"}
PINS = ("int8", "float32")


def decide(
    program: Program,
    config: QuantConfig,
    calibration: Calibration,
    target: Target,
    *,
    ignore: Sequence[Scope] = (),
    only: Sequence[Scope] = (),
    pin: Mapping[Scope, str] | None = None,
    profitable: Profitable = "measure",
    budget: Budget | None = None,
    measure: Callable[[Plan], Costs] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The Plan for `program` that pays and keeps the budget; `plan.decisions` says why each layer is as it is.

    `measure` takes the place of measuring kernels. Raises what `make_plan` does, and InvalidInput for an option, a pin
    that matches nothing, and a budget out of reach.
    """
    if profitable not in HOW:
        raise InvalidInput(f"profitable must be 'measure', 'predict' or 'off', not {profitable!r}")
    if budget is not None and not isinstance(budget, Budget):
        raise InvalidInput(f"budget must be a fxpress.quantization.Budget, not {budget!r}")
    pinned, floating = _pins(program, target, {} if pin is None else pin, ignore, only)
    early = late = None
    if isinstance(target, CpuTarget):
        if measure is None:
            measure = Measure(KernelTimes(target, HOW[profitable], cache=cache, progress=progress))
        early = Profitability(measure, pinned) if profitable != "off" else None
        if budget is not None:
            late = MixedPrecision(budget, calibration, target, measure, pinned=pinned, cache=cache, progress=progress)
    elif profitable != "off" or budget is not None:
        raise Unsupported(
            f"profitable must be 'off' and budget None for {target.kind} targets, whose layers have no kernels to be "
            f"timed, not {profitable!r} and {budget}"
        )
    plan = make_plan(
        program, config, calibration, target,
        ignore=(*ignore, *floating), only=only, cache=cache, early=early, late=late,
    )  # fmt: skip
    if early is not None and early.last is not None:
        early.report(plan, early.last if late is None or measure is None else measure(plan))
    first = early.first if early is not None else None
    costs = late.costs if first is None and late is not None else first
    plan.decisions = table(plan, late.noises if late is not None else {}, costs)
    return plan


def table(plan: Plan, noises: Mapping[str, Noise], costs: Costs | None) -> Decisions:
    """What was decided for each node that could have become integer, views apart."""
    rows = []
    for node in plan.program.nodes:
        if node.op != "call_function" or ROLES.get(node.target, "move") == "move":
            continue
        noise = noises.get(node.name)
        integer, floating = layer_bytes(plan, node.name)
        rows.append(
            LayerDecision(
                node.name,
                op_name(node.target),
                str(node.meta.get("source", "")),
                width_of(plan, node.name),
                plan.left.get(node.name, ""),
                how=costs.how if costs is not None else "",
                layer_noise=noise.layer if noise is not None else None,
                output_noise=noise.output if noise is not None else None,
                float_seconds=costs.float32.get(node.name) if costs is not None else None,
                int8_seconds=costs.quantized.get(node.name) if costs is not None else None,
                float_bytes=floating or None,
                int8_bytes=integer or None,
            )
        )
    return Decisions(tuple(rows))


def width_of(plan: Plan, name: str) -> str:
    """How wide a node's numbers are: "int8", "int8-weights", "int8-dynamic", "int8-rows", "float32" and the like."""
    if name in plan.stored:
        return "int8-dynamic" if plan.config.dynamic else f"int{plan.stored[name].bits}-weights"
    if name in plan.tables:
        return "int8-rows"
    return "int8" if name in plan.layers or name in plan.integer else "float32"


def _pins(
    program: Program, target: Target, pin: Mapping[Scope, str], ignore: Sequence[Scope], only: Sequence[Scope]
) -> tuple[list[Scope], list[Scope]]:
    """The scopes that must be integer, and those that must not. Raises InvalidInput for a layer that is both."""
    if not isinstance(pin, Mapping):
        raise InvalidInput(f"pin must map layers to one of {sorted(PINS)}, not be {pin!r}")
    for scope, width in pin.items():
        if width not in PINS:
            raise InvalidInput(f"pin must map a layer to one of {sorted(PINS)}, not {scope!r} to {width!r}")
    integer, floating = ([scope for scope, wanted in pin.items() if wanted == width] for width in PINS)
    if not pin:
        return integer, floating
    table = integer_ops(target)
    nodes = [node for node in program.nodes if node.op == "call_function" and node.target in table]
    select(nodes, [*pin], "pin")
    wanted = [node for node in nodes if any(matches(scope, node) for scope in integer)]
    for option, scopes in (("pin", floating), ("ignore", ignore)):
        _refuse_both({node for node in wanted if any(matches(scope, node) for scope in scopes)}, option)
    if only:
        layers = [node for node in wanted if table[node.target].role == "layer"]
        _refuse_both({node for node in layers if not any(matches(scope, node) for scope in only)}, "only")
    return integer, floating


def _refuse_both(nodes: set[Node], option: str) -> None:
    for node in sorted(nodes, key=lambda node: node.name):
        raise InvalidInput(
            f"pin must not ask for int8 where {option} asks for float32, as for %{node.name}; name the layers apart"
        )
