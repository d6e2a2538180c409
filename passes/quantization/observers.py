"""What calibration remembers of a value, and the range it makes of that.

`min-max` covers everything seen. `moving-average` smooths the extremes of item after item. The others keep a histogram
of fixed size and cut off rare extremes: `percentile` what is beyond 99.99 %, `entropy` where the integers' distribution
is closest to the values' (KL divergence), `mse` where the squared rounding and clipping error is least.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import InvalidInput
from .scheme import LARGEST_RANGE, OBSERVERS, Range

BINS = 8192
AVERAGE_WEIGHT = 0.05
PERCENTILE = 0.9999
LEVELS = 256
STEPS = 60
SMALLEST_FRACTION = 0.05


class Observer(ABC):
    """Sees a value's tensors one after the other; `range(symmetric)` is what their integers should cover."""

    axis: int | None = None

    def update(self, x: Tensor) -> bool:
        """Take in one more tensor. False, and nothing is taken, when it holds NaN or numbers beyond `LARGEST_RANGE`."""
        if x.numel() == 0:
            return True
        low, high = _extremes(x, self.axis)
        if not bool(((low >= -LARGEST_RANGE) & (high <= LARGEST_RANGE)).all()):
            return False
        self._take(x, low, high)
        return True

    @abstractmethod
    def _take(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Take in a tensor of finite numbers with these extremes."""

    @abstractmethod
    def range(self, symmetric: bool = False) -> Range:
        """The lowest and highest number that the integers should stand for; `symmetric` as in QParams."""


class MinMax(Observer):
    """The lowest and highest number ever; with `axis` for each index of that dimension, in `low` and `high`."""

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def _take(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def range(self, symmetric: bool = False) -> Range:
        if self.low is None or self.high is None:
            return 0.0, 0.0
        return float(self.low.min()), float(self.high.max())


class MovingAverage(Observer):
    """Extremes averaged over the items: each new one counts 5 %, the first fully."""

    def __init__(self) -> None:
        self._range: Range | None = None

    def _take(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        old_low, old_high = self._range or (float(low), float(high))
        self._range = (
            old_low + AVERAGE_WEIGHT * (float(low) - old_low),
            old_high + AVERAGE_WEIGHT * (float(high) - old_high),
        )

    def range(self, symmetric: bool = False) -> Range:
        return self._range or (0.0, 0.0)


class Histogram(Observer):
    """Counts in bins of equal width over [-limit, limit]; the limit doubles when a larger number comes.

    `choose(counts, edges, low, high, symmetric)` makes the range of them.
    """

    def __init__(self, choose: Callable[[Tensor, Tensor, Range, bool], Range]) -> None:
        self._choose = choose
        self._limit = 0.0
        self._counts = torch.zeros(BINS, dtype=torch.float64)
        self._zeros = 0
        self._seen: Range = (math.inf, -math.inf)

    def _take(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        self._seen = min(self._seen[0], float(low)), max(self._seen[1], float(high))
        largest = max(-float(low), float(high))
        if largest == 0:
            self._zeros += x.numel()
            return
        if self._limit == 0:
            self._limit = largest
        while largest > self._limit:
            pairs = self._counts.reshape(-1, 2).sum(1)
            self._counts = torch.cat((torch.zeros(BINS // 4), pairs, torch.zeros(BINS // 4))).double()
            self._limit *= 2
        self._counts += torch.histc(x.float(), BINS, -self._limit, self._limit).double()

    def range(self, symmetric: bool = False) -> Range:
        if self._limit == 0:
            return 0.0, 0.0
        low, high = self._seen
        counts = self._counts.clone()
        counts[BINS // 2] += self._zeros
        edges = torch.linspace(-self._limit, self._limit, BINS + 1, dtype=torch.float64)
        found_low, found_high = self._choose(counts, edges, (low, high), symmetric)
        return max(low, found_low), min(high, found_high)


def make_observer(name: str) -> Observer:
    """The observer of that name, new. Raises InvalidInput for an unknown one."""
    if name not in _MAKERS:
        raise InvalidInput(f"observer must be one of {list(OBSERVERS)}, not {name!r}")
    return _MAKERS[name]()


def _extremes(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    if axis is None:
        low, high = torch.aminmax(x)
        return low, high
    rows = x.movedim(axis, 0).flatten(1)
    return rows.amin(1), rows.amax(1)


def _percentile(counts: Tensor, edges: Tensor, extremes: Range, symmetric: bool) -> Range:
    """Where 0.01 % of the numbers lie outside, half of them on each side (where there are two)."""
    total = counts.cumsum(0) / counts.sum()
    outside = 1 - PERCENTILE
    if extremes[0] < 0 < extremes[1]:
        outside /= 2
    low = edges[int(torch.searchsorted(total, outside))] if extremes[0] < 0 else torch.zeros(())
    high = edges[min(BINS, int(torch.searchsorted(total, 1 - outside)) + 1)]
    return min(float(low), 0.0), max(float(high), 0.0)


def _fractions() -> list[float]:
    """From 1 down to 0.05, in equal ratios."""
    return [float(SMALLEST_FRACTION ** (step / (STEPS - 1))) for step in range(STEPS)]


def _candidates(extremes: Range, symmetric: bool) -> list[Range]:
    """The range cut off at smaller and smaller magnitudes."""
    low, high = min(extremes[0], 0.0), max(extremes[1], 0.0)
    limits = [max(-low, high) * fraction for fraction in _fractions()]
    if symmetric:
        return [(-limit, limit) for limit in limits]
    return [(max(low, -limit), min(high, limit)) for limit in limits]


def _entropy(counts: Tensor, edges: Tensor, extremes: Range, symmetric: bool) -> Range:
    """The range, cut off on both sides alike, whose 256 integers are distributed most alike (least KL divergence)."""
    centres = (edges[1:] + edges[:-1]) / 2
    best, least = extremes, math.inf
    for low, high in _candidates(extremes, symmetric):
        inside = (centres >= low) & (centres <= high)
        kept = counts[inside]
        if kept.sum() == 0:
            continue
        clipped = kept.clone()
        clipped[0] += counts[centres < low].sum()
        clipped[-1] += counts[centres > high].sum()
        level = ((centres[inside] - low) / (high - low) * LEVELS).long().clamp(0, LEVELS - 1)
        seen = (kept > 0).double()
        mass = torch.zeros(LEVELS, dtype=torch.float64).index_add_(0, level, kept)
        members = torch.zeros(LEVELS, dtype=torch.float64).index_add_(0, level, seen)
        spread = (mass / members.clamp(min=1))[level] * seen
        p, q = clipped / clipped.sum(), spread / spread.sum()
        wanted = p > 0
        divergence = float((p[wanted] * (p[wanted] / q[wanted].clamp(min=1e-12)).log()).sum())
        if divergence < least - 1e-12:
            best, least = (low, high), divergence
    return best


def _mse(counts: Tensor, edges: Tensor, extremes: Range, symmetric: bool) -> Range:
    """The range with the least squared error: cut off on both sides alike, then on each by itself."""
    used = counts > 0
    centres, weights = ((edges[1:] + edges[:-1]) / 2)[used], counts[used]

    def error(candidate: Range) -> float:
        low, high = candidate
        step = (high - low) / (LEVELS - 2 if symmetric else LEVELS - 1)
        if step <= 0:
            return math.inf
        zero = round(-low / step)
        integers = (centres / step).round().clamp(-zero, round((high - low) / step) - zero)
        # what rounding does inside a bin is as uniform as the bin is wide: the same for every candidate
        return float((weights * (integers * step - centres).square()).sum())

    best = min(_candidates(extremes, symmetric), key=error)
    if symmetric:
        return best
    low, high = min(extremes[0], 0.0), max(extremes[1], 0.0)
    best = min([best, *((low * fraction, best[1]) for fraction in _fractions())], key=error)
    return min([best, *((best[0], high * fraction) for fraction in _fractions())], key=error)


_MAKERS: dict[str, Callable[[], Observer]] = {
    "min-max": MinMax,
    "moving-average": MovingAverage,
    "percentile": lambda: Histogram(_percentile),
    "entropy": lambda: Histogram(_entropy),
    "mse": lambda: Histogram(_mse),
}
