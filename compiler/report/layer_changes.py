"""What became of each layer of a model: width, numbers, zeros, what took its place, its error and its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .explanation import Layer
from .layer_errors import LayerError
from .outcomes import Outcomes
from .pruned import GroupWidth
from .quantities import percent_text


@dataclass(frozen=True)
class LayerChange:
    """A line of the model and what was done to it, in words; empty where nothing was.

    `seconds` are those of its kernel calls, `seconds_before` of the original's; None where there are none.
    """

    name: str
    source: str
    width: str
    numbers: str
    zeros: str
    instead: str
    error: float | None
    seconds: float | None
    seconds_before: float | None
    kernels: tuple[str, ...]


def layer_changes(
    errors: Sequence[LayerError], done: Outcomes, calls: Sequence[Layer], calls_before: Sequence[Layer]
) -> list[LayerChange]:
    """The layers of the original in its order, then lines that have kernel calls only."""
    widths = {layer: group for group in done.widths if group.pruned for layer in group.layers}
    numbers: dict[str, dict[str, None]] = {}
    for decision in done.decisions.layers:
        numbers.setdefault(decision.source, {})[_numbers(decision.width, decision.why)] = None
    zeros = {layer.name: f"{percent_text(layer.share)} zeros" for layer in done.zeros}
    instead = {row.layer: f"{row.before} \N{RIGHTWARDS ARROW} {row.after}" for row in done.replaced if not row.why}
    now, before = _by_source(calls), _by_source(calls_before)
    rows = []
    for layer in errors or [LayerError(source, (), None) for source in before]:
        rows.append(
            LayerChange(
                _module(layer.source),
                layer.source,
                "".join(_width(widths[node]) for node in layer.nodes if node in widths),
                ", ".join(numbers.get(layer.source, ())),
                ", ".join(zeros[node] for node in layer.nodes if node in zeros),
                ", ".join(instead[node] for node in layer.nodes if node in instead),
                layer.error,
                _seconds(now.get(layer.source)),
                _seconds(before.get(layer.source)),
                _kernels(now.get(layer.source, ())),
            )
        )
    known = {row.source for row in rows}
    return rows + [
        LayerChange(
            _module(source), source, "", "", "", "", None, _seconds(some), _seconds(before.get(source)), _kernels(some)
        )
        for source, some in now.items()
        if source not in known
    ]


def _numbers(width: str, why: str) -> str:
    return f"{width} ({why})" if why else width


def _width(group: GroupWidth) -> str:
    return f"{group.units} \N{RIGHTWARDS ARROW} {group.left}"


def _module(source: str) -> str:
    """`encoder.0` of `model.py:3 in forward (encoder.0)`; the whole where no module is named."""
    return source[source.rindex("(") + 1 : -1] if source.endswith(")") else source


def _by_source(calls: Sequence[Layer]) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    for call in calls:
        found.setdefault(call.source, []).append(call)
    return found


def _seconds(calls: Sequence[Layer] | None) -> float | None:
    return None if calls is None else sum(call.seconds for call in calls)


def _kernels(calls: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(call.kernel for call in calls)
