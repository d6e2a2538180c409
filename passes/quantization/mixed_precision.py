"""Gives each layer the width that a budget of quality, time or size allows, and checks the whole model for it.

The error each layer causes alone, its measured times and its bytes go into an integer linear program. Errors do not
quite add up, so what it finds is tried on the whole model, and its limits are moved until the budget holds: towards
less noise while the model misses it, then back between what failed and what held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch.fx import Node

from ...cpu import CpuTarget
from ...errors import InvalidInput
from ...kernel_times import KernelUse, predicted_seconds
from ...ops import fxpress
from ...progress import Progress
from ...report.decisions import decibel, decibel_text
from ...report.quantities import bytes_text, time_text
from .assignment import Edge, Limits, Option, solve
from .budget import Budget
from .calibration import Calibration
from .costs import Costs, constant_bytes, layer_bytes, pinned_names, quantized_program
from .placement import DEQUANTIZE, ROUNDING, elements
from .plan import Plan, StoredPlan
from .planning import Choice, Decider
from .scopes import Scope
from .sensitivity import Noise, groups, measure_sensitivity, whole_noise

TIGHTER = 0.25
"""By how much the limit on noise falls when the whole model misses the budget."""
CLOSE = 2.0
"""Noise that failed and noise that held are not further apart than that when the search ends, or STEPS are taken."""
STEPS = 4


@dataclass(frozen=True)
class Miss:
    """Which part of a budget the whole model misses, by how much (seconds or bytes), in words."""

    part: Literal["quality", "seconds", "bytes"]
    text: str
    excess: float = 0.0


class MixedPrecision(Decider):
    """Chooses widths for a Budget; layers in `pinned` (scopes) keep the width of the first Plan.

    `measure` gives the costs of a Plan. After a run `noises` and `costs` are those of the layers in the first Plan.
    """

    def __init__(
        self,
        budget: Budget,
        calibration: Calibration,
        target: CpuTarget,
        measure: Callable[[Plan], Costs],
        *,
        pinned: Sequence[Scope] = (),
        cache: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._budget = budget
        self._calibration = calibration
        self._target = target
        self._measure = measure
        self._pinned = pinned
        self._cache = cache
        self._progress = progress or (lambda stage: None)
        self._groups: list[tuple[str, ...]] = []
        self._options: list[list[Option]] = []
        self._edges: list[Edge] = []
        self._limits = Limits()
        self._now: list[Option] = []
        self._passed: list[Option] | None = None
        self._failed = math.inf  # the least noise that was seen to be too much
        self._steps = 0
        self._final = False
        self._reference: float | None = None
        self.noises: dict[str, Noise] = {}
        self.costs: Costs | None = None

    def choose(self, plan: Plan) -> Mapping[str, Choice] | None:
        if self._final:
            return None
        if not self._groups:
            self._prepare(plan)
            if self._budget.objective == "noise":
                return self._assign(self._limits, "")
        missed = self._missed(plan)
        if missed is None:
            self._passed = self._now
        limits = self._next_limits(missed)
        return self._finish() if limits is None else self._assign(limits, missed.text if missed is not None else "")

    # the problem

    def _prepare(self, plan: Plan) -> None:
        budget = self._budget
        self._groups = groups(plan)
        found = measure_sensitivity(
            plan, self._calibration, self._groups, items=budget.items, cache=self._cache, progress=self._progress
        )
        self.noises = {name: noise for names, noise in zip(self._groups, found, strict=True) for name in names}
        self.costs = costs = self._measure(plan)
        nodes = {node.name: node for node in plan.program.nodes}
        self._options = [
            self._options_of(plan, [nodes[name] for name in names], noise, costs)
            for names, noise in zip(self._groups, found, strict=True)
        ]
        self._edges = _edges(nodes, self._groups, self._target)
        self._now = [options[0] for options in self._options]
        other_bytes = constant_bytes(plan, self._target) - sum(option.bytes for option in self._now)
        other_seconds = costs.total[1] - sum(option.seconds for option in self._now)
        self._limits = Limits(
            math.inf if budget.min_sqnr is None else 10 ** (-budget.min_sqnr / 10),
            math.inf if budget.max_seconds is None else budget.max_seconds - other_seconds,
            math.inf if budget.max_bytes is None else budget.max_bytes - other_bytes,
        )

    def _options_of(self, plan: Plan, nodes: Sequence[Node], noise: Noise, costs: Costs) -> list[Option]:
        """The widths of a group, what the Plan has first."""
        names = [node.name for node in nodes]
        quantized = sum(costs.quantized.get(name, 0.0) for name in names)
        floating = sum(costs.float32.get(name, 0.0) for name in names)
        integer, full = (sum(sizes) for sizes in zip(*(layer_bytes(plan, name) for name in names), strict=True))
        kept = Option("int8", noise.output, quantized, integer)
        if not pinned_names(plan, self._pinned).isdisjoint(names):
            return [kept]
        options = [kept, Option("float32", 0.0, floating, full)]
        if self._budget.max_bytes is not None and plan.config.is_static and all(map(_is_linear, nodes)):
            options.append(self._weights_only(plan, names, floating, integer))
        return options

    def _weights_only(self, plan: Plan, names: Sequence[str], seconds: float, size: float) -> Option:
        stored = Plan(plan.program, plan.config, plan.calibration)
        for name in names:
            stored.stored[name] = StoredPlan.of(name, plan.layers[name].weight, plan.config)
        (noise,) = measure_sensitivity(stored, self._calibration, [tuple(names)], items=self._budget.items)
        return Option("int8-weights", noise.output, seconds, size)

    # the search

    def _missed(self, plan: Plan) -> Miss | None:
        """What the whole model misses; None when the budget holds."""
        budget = self._budget
        if budget.max_bytes is not None and (size := constant_bytes(plan, self._target)) > budget.max_bytes:
            return Miss("bytes", f"max_bytes is {budget.max_bytes}, its constants have {size}", size - budget.max_bytes)
        if budget.max_seconds is not None and (spent := self._measure(plan).total[1]) > budget.max_seconds:
            text = f"max_seconds is {time_text(budget.max_seconds)}, its kernels take {time_text(spent)}"
            return Miss("seconds", text, spent - budget.max_seconds)
        if budget.min_sqnr is not None:
            ratio = decibel(whole_noise(plan, self._calibration, budget.items))
            if ratio < budget.min_sqnr:
                return Miss("quality", f"min_sqnr is {budget.min_sqnr:g} dB, its outputs have {ratio:.1f} dB")
        if budget.evaluate is None or budget.max_drop is None:
            return None
        if self._reference is None:
            self._progress("evaluate the float32 model")
            self._reference = _number(budget.evaluate(plan.program.run))
        self._progress("evaluate the quantised model")
        drop = self._reference - _number(budget.evaluate(quantized_program(plan, self._target).run))
        if drop <= budget.max_drop:
            return None
        return Miss("quality", f"max_drop is {budget.max_drop:g}, evaluate drops by {drop:.6g}")

    def _next_limits(self, missed: Miss | None) -> Limits | None:
        """Where to look next; None when what passed is good enough. Raises InvalidInput when there is nothing."""
        limits = self._limits
        if self._budget.objective == "noise":
            if missed is None:
                return None
            if missed.part == "quality":
                raise self._unreachable(missed.text)
            excess = {missed.part: getattr(limits, missed.part) - missed.excess}
            self._limits = replace(limits, **excess)
            return self._limits
        noise, fixed = _noise(self._now), sum(o[0].noise for o in self._options if len(o) == 1)
        if missed is not None:
            self._failed = min(self._failed, noise)
        if self._passed is None:
            below = limits.noise if limits.noise < noise else TIGHTER * noise + (1 - TIGHTER) * fixed
            return replace(limits, noise=below)
        low = max(_noise(self._passed), TIGHTER**STEPS * self._failed)
        if self._failed == math.inf or self._failed <= CLOSE * low or self._steps == STEPS:
            return None
        self._steps += 1
        return replace(limits, noise=math.sqrt(low * self._failed))

    def _assign(self, limits: Limits, missed: str) -> Mapping[str, Choice] | None:
        """The choices of the best assignment within `limits`, unless that was tried before."""
        found = solve(self._options, self._edges, limits, self._budget.objective)
        if self._passed is not None and (found is None or found in (self._now, self._passed)):
            return self._finish()
        if found is None or (missed and found == self._now):
            raise self._unreachable(missed or "none is as small, fast and accurate as it says")
        self._now = found
        return self._choices()

    def _finish(self) -> Mapping[str, Choice] | None:
        """End with what passed, now or in an earlier trial."""
        self._final = True
        if self._passed is None or self._passed is self._now:
            return None
        self._now = self._passed
        return self._choices()

    def _unreachable(self, missed: str) -> InvalidInput:
        return InvalidInput(
            f"budget must be within reach, but no assignment of widths keeps it: {missed}; allow more, pin fewer "
            "layers, or choose another config"
        )

    def _choices(self) -> dict[str, Choice]:
        made: dict[str, Choice] = {}
        for names, option, options in zip(self._groups, self._now, self._options, strict=True):
            if option.width != options[0].width:
                made |= dict.fromkeys(names, Choice(option.width, _reason(option, options[0])))
        return made


def _is_linear(node: Node) -> bool:
    return node.target is fxpress.linear.default


def _noise(assignment: Sequence[Option]) -> float:
    return sum(option.noise for option in assignment)


def _number(found: Any) -> float:
    """What evaluate returned, as a number. Raises InvalidInput when it is none."""
    if isinstance(found, bool | str) or not hasattr(found, "__float__") or not math.isfinite(float(found)):
        raise InvalidInput(f"evaluate must return a finite number, higher is better, not {found!r}")
    return float(found)


def _reason(option: Option, instead: Option) -> str:
    what = f"int8 alone would leave {decibel_text(instead.noise)} at the outputs"
    faster = instead.seconds < option.seconds
    spent = f"{time_text(abs(option.seconds - instead.seconds))} {'faster' if faster else 'slower'}"
    smaller = f"{bytes_text(option.bytes - instead.bytes)} smaller" if option.bytes > instead.bytes else "as large"
    return f"mixed precision: {what}; it would be {spent} and {smaller}"


def _edges(nodes: Mapping[str, Node], parts: Sequence[tuple[str, ...]], target: CpuTarget) -> list[Edge]:
    """From each group to those that read its result, also through nodes that are in none."""
    number = {name: index for index, names in enumerate(parts) for name in names}
    found: dict[tuple[int, int], float] = {}
    for name, index in number.items():
        size = elements(nodes[name])
        use = KernelUse(name, "", "", 0, (DEQUANTIZE - ROUNDING) * size, False)
        waiting, seen = list(nodes[name].users), set[Node]()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.name not in number:
                waiting.extend(node.users)
            elif number[node.name] != index:
                found[index, number[node.name]] = predicted_seconds(use, target)
    return [Edge(source, reader, seconds) for (source, reader), seconds in found.items()]
