"""What a search may be asked to make better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    if isinstance(names, str):
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
