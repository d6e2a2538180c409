"""What a search may be asked to make better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import InvalidInput
from ..report.quantities import bytes_text, time_text
from .footprint import Footprint


@dataclass(frozen=True)
class Objective:
    """A number of a point that should be large (`maximise`) or small; `text` writes it."""

    name: str
    of: Callable[[Footprint], float]
    text: Callable[[float], str]
    maximise: bool = False


def _none(footprint: Footprint) -> float:
    raise NotImplementedError("quality is not a matter of the footprint")


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("quality", _none, "{:.4g}".format, maximise=True),
        Objective("latency", lambda f: f.latency, time_text),
        Objective("p99", lambda f: f.p99, time_text),
        Objective("size", lambda f: float(f.size), bytes_text),
        Objective("ram", lambda f: float(f.ram), bytes_text),
        Objective("macs", lambda f: float(f.macs), "{:.3g}".format),
        Objective("throughput", lambda f: f.throughput, "{:.4g}/s".format, maximise=True),
    )
}


def objectives_of(names: Sequence[str]) -> tuple[Objective, ...]:
    """The objectives of these names, quality first. Raises InvalidInput for unknown ones, or fewer than two."""
    if isinstance(names, str):
        raise InvalidInput(f"objectives must be names in a list, not {names!r}")
    unknown = [name for name in names if name not in OBJECTIVES]
    if unknown:
        raise InvalidInput(f"objectives must be among {sorted(OBJECTIVES)}, not {unknown}")
    if "quality" not in names or len(set(names)) < 2:
        raise InvalidInput(f"objectives must be 'quality' and at least one of what it costs, not {list(names)}")
    return tuple(OBJECTIVES[name] for name in dict.fromkeys(("quality", *names)))
