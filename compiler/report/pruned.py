"""What pruning left of each group of units and what its loss costs, as data that reports show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

WIDTHS = "remove-units"
"""The pass whose decisions are widths of groups."""
ZEROS = "zero-weights"
"""The pass whose decisions are zeros in weights."""
PROMISED = ": at most "
"""What the line with a budget's promise has after the kind of the budget."""
SENSITIVITY = "sensitivity"
"""The name of the record whose decisions are errors of groups."""


@dataclass(frozen=True)
class GroupWidth:
    """A group of channels, heads or hidden units, or an axis that stays whole.

    `layers` are the nodes whose results the units are. There were `units` of them, `asked` were to stay and `left` did.
    `why` says what stops those that stay whole.
    """

    name: str
    layers: tuple[str, ...]
    units: int
    asked: int
    left: int
    why: str = ""

    def text(self) -> str:
        """`conv2d: 8 of 16 units left`."""
        rounded = "" if self.asked == self.left else f", {self.asked} rounded up"
        return f"{self.name}: {self.left} of {self.units} units left{rounded}"

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal one."""
        return asdict(self) | {"layers": list(self.layers)}

    @property
    def pruned(self) -> bool:
        """Whether any unit went."""
        return self.left < self.units

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> GroupWidth:
        """What `to_json` described."""
        return GroupWidth(**{**document, "layers": tuple(document["layers"])})


def final_widths(steps: Iterable[GroupWidth]) -> tuple[GroupWidth, ...]:
    """The groups of one or several steps, each as it was before the first and is after the last."""
    found: dict[str, GroupWidth] = {}
    for width in steps:
        first = found.get(width.name)
        found[width.name] = width if first is None else replace(width, units=first.units)
    return tuple(found.values())


@dataclass(frozen=True)
class LayerZeros:
    """A layer whose weight, of that shape, got zeros in a pattern: `left` of its `weights` numbers are not zero."""

    name: str
    shape: tuple[int, ...]
    weights: int
    left: int

    @property
    def share(self) -> float:
        """The part of the weight that is zero."""
        return 1 - self.left / self.weights

    def text(self) -> str:
        """`conv2d: 8 of 16 weights left`."""
        return f"{self.name}: {self.left} of {self.weights} weights left"

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal one."""
        return asdict(self) | {"shape": list(self.shape)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> LayerZeros:
        """What `to_json` described."""
        return LayerZeros(**{**document, "shape": tuple(document["shape"])})


def final_zeros(steps: Iterable[LayerZeros]) -> tuple[LayerZeros, ...]:
    """The layers of one or several steps as they are after the last."""
    return tuple({zeros.name: zeros for zeros in steps}.values())


@dataclass(frozen=True)
class Errors:
    """The errors at the outputs when one group alone is pruned, by ratio."""

    group: str
    by_ratio: tuple[tuple[float, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal one."""
        return {"group": self.group, "by_ratio": [list(pair) for pair in self.by_ratio]}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Errors:
        """What `to_json` described."""
        return Errors(document["group"], tuple((ratio, error) for ratio, error in document["by_ratio"]))


@dataclass(frozen=True)
class Line:
    """One ratio's line in the plot of sensitivity: a point for each group, and the text of each."""

    title: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class SensitivityPlot:
    """Errors on a logarithmic axis over the groups, as coordinates: a line for each ratio, ticks for powers of ten."""

    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]


def sensitivity_plot(errors: Sequence[Errors], width: float, height: float) -> SensitivityPlot:
    """Lay the errors out in a rectangle, the first group on the left; errors of zero lie on its floor."""
    positive = [error for each in errors for _, error in each.by_ratio if 0 < error < math.inf]
    low = math.floor(math.log10(min(positive, default=0.1)))
    high = max(math.ceil(math.log10(max(positive, default=1.0))), low + 1)

    def y_of(error: float) -> float:
        power = math.log10(error) if 0 < error < math.inf else (low if error <= 0 else high)
        return height * (high - power) / (high - low)

    step = width / max(len(errors), 1)
    ratios = sorted({ratio for each in errors for ratio, _ in each.by_ratio})
    lines = [
        Line(
            f"{ratio:.0%} removed",
            tuple(
                (step * (place + 0.5), y_of(error), f"{each.group}: {error:.3g}")
                for place, each in enumerate(errors)
                for at, error in each.by_ratio
                if at == ratio
            ),
        )
        for ratio in ratios
    ]
    ticks = tuple((y_of(10.0**power), f"{10.0**power:g}") for power in range(low, high + 1))
    return SensitivityPlot(tuple(lines), ticks)
