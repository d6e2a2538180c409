"""Numbers for how good models are, with intervals, and which of two is better.

An `evaluate` function takes a callable that is called like the model and returns one number, or `Scores`: a row for
each item, from which the number is computed, so that its noise is known and two models are compared item by item.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidInput

Array = np.ndarray[Any, Any]
Model = Callable[..., Any]
Evaluate = Callable[[Model], "float | Scores"]

RESAMPLES = 1000
LEVEL = 95
"""Percent of the interval."""
SAME = 1e-6
"""Relative difference of qualities that are the same."""
ENDS = ((100 - LEVEL) / 2, (100 + LEVEL) / 2)


def mean(rows: Array) -> float:
    """The average of the rows' numbers."""
    return float(rows.mean())


@dataclass(frozen=True, eq=False)
class Scores:
    """A row of numbers for each item [items, ...], and `summary`, what they amount to; higher is better."""

    rows: Array
    summary: Callable[[Array], float] = mean

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise InvalidInput("evaluate must see at least one item, not none")


@dataclass(frozen=True, eq=False)
class Quality:
    """A number, higher is better, and the ends of its 95% interval; both are the number where items are not known.

    Intervals are percentiles of resampled items (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13),
    always the same resamples of so many `items`, so that those of two models are paired. `resampled` is what they
    amount to [RESAMPLES]: all that a comparison needs.
    """

    value: float
    low: float
    high: float
    items: int = 0
    resampled: Array | None = None

    @classmethod
    def measure(cls, evaluate: Evaluate, model: Model) -> Quality:
        """What `evaluate` says of the model. Raises InvalidInput when that is no finite number, and what it raises."""
        try:
            return cls.of(evaluate(model))
        except Exception as error:
            error.add_note("while evaluating a model: evaluate= must be a function that returns its quality")
            raise

    @classmethod
    def measure_twice(cls, evaluate: Evaluate, model: Model) -> Quality:
        """As `measure`. Raises InvalidInput also when a second number is outside the interval of the first."""
        first, second = cls.measure(evaluate, model), cls.measure(evaluate, model)
        tolerance = SAME * abs(first.value)
        if not first.low - tolerance <= second.value <= first.high + tolerance:
            both = f"{first.value:.6g} and then {second.value:.6g}"
            raise InvalidInput(
                f"evaluate must say the same of the same model, not {both}; "
                "seed what is random in it, or return Scores of more items"
            )
        return first

    @classmethod
    def of(cls, found: Any) -> Quality:
        """From what an evaluate function returned."""
        if isinstance(found, Scores):
            resampled = _resampled(found)
            low, high = np.percentile(resampled, ENDS)
            value = _finite(found.summary(found.rows))
            return cls(value, _finite(low), _finite(high), len(found.rows), resampled)
        value = _finite(found)
        return cls(value, value, value)

    def minus(self, other: Quality) -> tuple[float, float, float]:
        """The difference and the ends of its interval, item by item where both know their items."""
        if self.resampled is None or other.resampled is None or self.items != other.items:
            return self.value - other.value, self.low - other.high, self.high - other.low
        low, high = np.percentile(self.resampled - other.resampled, ENDS)
        return self.value - other.value, float(low), float(high)

    def is_better_than(self, other: Quality) -> bool:
        """Whether it is higher, and not by chance."""
        return self.minus(other)[1] > 0

    def to_json(self) -> dict[str, Any]:
        """Plain data, with which comparisons are the same as before: the resampled numbers as base64 of their bytes."""
        found: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "items": self.items}
        if self.resampled is not None:
            found["resampled"] = base64.b64encode(self.resampled.astype("<f8").tobytes()).decode()
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Quality:
        """The Quality that `to_json` wrote."""
        kept = data.get("resampled")
        resampled = None if kept is None else np.frombuffer(base64.b64decode(kept), "<f8")
        return cls(data["value"], data["low"], data["high"], data["items"], resampled)


def _resampled(scores: Scores) -> Array:
    """The summaries of resampled items [RESAMPLES]."""
    rows = scores.rows
    random = np.random.default_rng(0)
    if scores.summary is mean and rows.ndim == 1:
        counts = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
        averages: Array = counts @ rows.astype(np.float64) / len(rows)
        return averages
    return np.array([scores.summary(rows[random.integers(len(rows), size=len(rows))]) for _ in range(RESAMPLES)])


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"evaluate must return a number or Scores, not {value!r}") from error
    if not math.isfinite(number):
        raise InvalidInput(f"evaluate must return a finite number, not {number}; look at the outputs that it saw")
    return number
