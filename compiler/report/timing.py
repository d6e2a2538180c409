"""How long a call takes: the same call many times over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidInput

_WARM_UP = 3  # calls that are not counted
_MOST_CALLS = 1_000_000


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median and the 10th and 90th percentile of `calls` calls."""

    median: float
    p10: float
    p90: float
    calls: int

    @property
    def spread(self) -> float:
        """Distance of the percentiles, relative to the median."""
        return (self.p90 - self.p10) / self.median

    def to_json(self) -> dict[str, Any]:
        return {
            "median_s": self.median,
            "p10_s": self.p10,
            "p90_s": self.p90,
            "spread": self.spread,
            "calls": self.calls,
        }


def call_times(call: Callable[[], Any], seconds: float, most: int = _MOST_CALLS) -> list[float]:
    """The seconds of each call, at least one, for about `seconds` in all and at most `most` calls."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    begin = time.perf_counter()
    while not times or (begin < end and len(times) < most):
        call()
        now = time.perf_counter()
        times.append(now - begin)
        begin = now
    return times


def measure(call: Callable[[], Any], seconds: float) -> Timing:
    """Time `call` for about `seconds`, after a warm-up. Raises InvalidInput unless `seconds` is positive."""
    if not seconds > 0:
        raise InvalidInput(f"seconds must be positive, not {seconds}")
    for _ in range(_WARM_UP):
        call()
    times = call_times(call, seconds)
    p10, median, p90 = np.percentile(times, (10, 50, 90))
    return Timing(float(median), float(p10), float(p90), len(times))
