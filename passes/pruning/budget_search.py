"""The search for widths that keep a budget: choose by the model, measure, correct the model, choose again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .width_choice import Problem, cheapest_levels, choose_levels

ROUNDS = 6
CLOSE = 0.96
"""A result that uses this part of its budget is not improved any further."""
TIGHTER = 0.02
"""The part of the budget that is left free after a first result that missed it; twice as much after each other one."""


@dataclass(frozen=True)
class Line:
    """Measured costs as a linear function of those that the model predicts."""

    offset: float
    slope: float

    @staticmethod
    def through(predicted: float, measured: float) -> Line:
        """Half of what the model leaves out costs the same at all widths, unless the model says too much.

        Elementwise ops at the end of layers shrink with them, calls and what is before the first layer do not.
        """
        if predicted <= 0:
            return Line(measured, 1.0)
        offset = max(0.0, measured - predicted) / 2
        return Line(offset, (measured - offset) / predicted)

    def at(self, predicted: float) -> float:
        """The cost to expect."""
        return self.offset + self.slope * predicted

    def inverse(self, cost: float) -> float:
        """What the model may predict for a cost."""
        return (cost - self.offset) / self.slope

    def corrected(self, predicted: float, measured: float, whole: tuple[float, float]) -> Line:
        """The line through a new point and that of the whole model, unless its costs would fall with widths."""
        slope = (whole[1] - measured) / (whole[0] - predicted) if whole[0] > predicted else 0.0
        slope = slope if slope > 0 else self.slope
        return Line(measured - slope * predicted, slope)


@dataclass(frozen=True)
class Trial:
    """A choice of levels, and the costs that were predicted and measured for it."""

    levels: tuple[int, ...]
    predicted: float
    measured: float


class Search:
    """Finds the levels of least loss whose measured cost is within `limit`; `whole` is the unpruned model's cost.

    After a run `trials` are all choices that were measured, in order.
    """

    def __init__(self, problem: Problem, whole: float, limit: float, measure: Callable[[Sequence[int]], float]) -> None:
        self._problem, self._limit, self._measure = problem, limit, measure
        self._whole = Trial((0,) * len(problem.losses), whole, whole)
        self._start = problem.at(self._whole.levels), whole
        self._line = Line.through(*self._start)
        self.trials: list[Trial] = []

    def run(self) -> Trial | None:
        """The best choice that was measured to be within the limit; None when the cheapest is not."""
        if self._whole.measured <= self._limit:
            return self._whole
        missed = 0
        for _ in range(ROUNDS):
            free = TIGHTER * 2 ** (missed - 1) if missed else 0.0
            levels = choose_levels(self._problem, self._line.inverse(self._limit * (1 - free)))
            trial = self._try(cheapest_levels(self._problem) if levels is None else levels)
            if trial is None or CLOSE * self._limit <= trial.measured <= self._limit:
                break
            missed += trial.measured > self._limit
        if self._best is None:
            self._try(cheapest_levels(self._problem))
        return self._best

    @property
    def _best(self) -> Trial | None:
        held = (trial for trial in self.trials if trial.measured <= self._limit)
        return min(held, key=lambda trial: self._problem.loss(trial.levels), default=None)

    def _try(self, levels: Sequence[int]) -> Trial | None:
        """Measure a choice and correct the line; None for a choice that was measured before."""
        chosen = tuple(levels)
        if any(trial.levels == chosen for trial in self.trials):
            return None
        predicted = self._problem.at(chosen)
        trial = Trial(chosen, self._line.at(predicted), self._measure(chosen))
        self._line = self._line.corrected(predicted, trial.measured, self._start)
        self.trials.append(trial)
        return trial
