"""What a search may be asked to make better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidInput
from ..report.quantities import bytes_text, energy_text, time_text
from ..target import Target
from .footprint import Footprint


@dataclass(frozen=True)
class Objective:
    """A number of a point that should be large (`maximise`) or small; `text` writes it."""

    name: str
    text: Callable[[float], str]
    maximise: bool = False

    def loss(self, value: float) -> float:
        """The number so that less is better."""
        return -value if self.maximise else value


@dataclass(frozen=True)
class Cost(Objective):
    """An objective that a footprint tells."""

    of: Callable[[Footprint], float] = field(kw_only=True)


QUALITY = Objective("quality", "{:.4g}".format, maximise=True)
"""What `evaluate` says."""

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        QUALITY,
        Cost("latency", time_text, of=lambda f: f.latency),
        Cost("p99", time_text, of=lambda f: f.p99),
        Cost("size", bytes_text, of=lambda f: float(f.size)),
        Cost("ram", bytes_text, of=lambda f: math.nan if f.ram is None else float(f.ram)),
        Cost("energy", energy_text, of=lambda f: math.nan if f.energy is None else f.energy),
        Cost("macs", "{:.3g}".format, of=lambda f: float(f.macs)),
        Cost("throughput", "{:.4g}/s".format, maximise=True, of=lambda f: f.throughput),
    )
}


MEASURED = ("p99", "ram")
"""Objectives that must be measured: targets whose costs a model says lack them."""
MODELLED = ("energy",)
"""Objectives that only a model of the machine knows."""


def objectives_of(names: Sequence[str]) -> tuple[Objective, ...]:
    """The objectives of these names, quality first. Raises InvalidInput for unknown ones, or fewer than two."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InvalidInput(f"objectives must be names in a list, not {names!r}")
    unknown = [name for name in names if name not in OBJECTIVES]
    if unknown:
        raise InvalidInput(f"objectives must be among {sorted(OBJECTIVES)}, not {unknown}")
    if QUALITY.name not in names or len(set(names)) < 2:
        raise InvalidInput(f"objectives must be 'quality' and at least one of what it costs, not {list(names)}")
    return tuple(OBJECTIVES[name] for name in dict.fromkeys((QUALITY.name, *names)))


def check_known(objectives: Sequence[Objective], target: Target) -> None:
    """Raise InvalidInput for objectives that nothing tells of artifacts for `target`."""
    lacking = MEASURED if target.modelled else MODELLED
    wrong = [objective.name for objective in objectives if objective.name in lacking]
    if wrong:
        why = "of which a model says what calls cost" if target.modelled else "of which no model says what calls cost"
        raise InvalidInput(
            f"objectives must be among {sorted(set(OBJECTIVES) - set(lacking))} for a {target.kind} target, {why}, "
            f"not {wrong}"
        )


def check_limit(what: str, limit: Any) -> None:
    """Raise InvalidInput for a limit that is no positive number; `what` it is called is told in the error."""
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not limit > 0:
        raise InvalidInput(f"{what} must be positive, a number in seconds, bytes or joules, not {limit!r}")


def check_limits(limits: Any, objectives: Sequence[Objective]) -> dict[str, float]:
    """Limits of costs by objective, as plain data. Raises InvalidInput for others, and for wrong numbers."""
    if not isinstance(limits, Mapping):
        raise InvalidInput(f'limits must be numbers by objective, like {{"size": 2e6}}, not {limits!r}')
    names = {objective.name for objective in objectives if isinstance(objective, Cost)}
    for name, limit in limits.items():
        if name not in names:
            raise InvalidInput(f"limits must be on objectives {sorted(names)}, not {name!r}; add it to objectives=")
        check_limit(f"limit of {name}", limit)
    return dict(limits)


def excess_over(limits: Mapping[str, float], footprint: Footprint) -> float:
    """By how much a footprint breaks limits of costs by objective, relative to them; at most 0 within.

    Of what should be large the limit is the least.
    """
    costs = {name: cost for name in limits if isinstance(cost := OBJECTIVES[name], Cost)}
    ratios = [(cost.of(footprint) / limits[name] - 1) * cost.loss(1.0) for name, cost in costs.items()]
    return max(ratios, default=0.0)
