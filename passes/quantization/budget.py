"""What a quantised model may cost, in quality, time and size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidInput
from ...search.ranges import Range, not_searched, search
from .assignment import Objective
from .sensitivity import ITEMS

Evaluate = Callable[[Callable[..., Any]], float]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a quantised model may cost; what is None does not matter.

    `min_sqnr` is the least signal-to-noise ratio of the outputs in dB, over `items` of the calibration items.
    `max_drop` is how far `evaluate(model)`, higher is better, may fall below the float32 model's value, where `model`
    is called like the original. `max_seconds` is for the kernels of one call on the target, `max_bytes` for all
    constants. Within limits of time or size quality is the best; within limits of quality alone time is.
    """

    min_sqnr: float | None = field(default=None, metadata=search(Range(10.0, 40.0, step=5.0)))
    max_drop: float | None = field(default=None, metadata=not_searched("a search has limits of its own"))
    evaluate: Evaluate | None = None
    max_seconds: float | None = field(default=None, metadata=not_searched("a search has limits of its own"))
    max_bytes: int | None = field(default=None, metadata=not_searched("a search has limits of its own"))
    items: int = field(default=ITEMS, metadata=not_searched("it is how well noise is known"))

    def __post_init__(self) -> None:
        if all(x is None for x in (self.min_sqnr, self.max_drop, self.max_seconds, self.max_bytes)):
            raise InvalidInput("budget must limit min_sqnr, max_drop, max_seconds or max_bytes, not nothing")
        if (self.max_drop is None) != (self.evaluate is None):
            raise InvalidInput("max_drop and evaluate must be given together: the one limits what the other returns")
        if self.evaluate is not None and not callable(self.evaluate):
            raise InvalidInput(f"evaluate must be a function of a model, not {self.evaluate!r}")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise InvalidInput(f"max_drop must be a number from 0 on, not {self.max_drop!r}")
        if self.min_sqnr is not None and not math.isfinite(self.min_sqnr):
            raise InvalidInput(f"min_sqnr must be a finite number of dB, not {self.min_sqnr!r}")
        for name in ("max_seconds", "max_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidInput(f"{name} must be positive, not {value!r}")
        if self.items < 1:
            raise InvalidInput(f"items must be at least 1, not {self.items!r}")

    @property
    def objective(self) -> Objective:
        """What is made small within the limits."""
        return "seconds" if self.max_seconds is None and self.max_bytes is None else "noise"
