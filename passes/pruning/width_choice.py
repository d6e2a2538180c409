"""How many units each group keeps within a budget, as a mixed-integer linear program: the least importance is lost.

What a layer costs depends on one group's width or on the product of two groups' widths. A group has a few levels, one
of which it takes; each pair of groups that some layer joins has a variable for each pair of their levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

TIME_LIMIT = 20.0
"""Seconds after which the best choice found so far is taken."""
GAP = 1e-4
SLACK = 1e-9
"""The part of a budget that rounding may take."""

Values = NDArray[np.float64]


@dataclass
class Cost:
    """A cost as a sum over levels of groups: `fixed`, `alone[g][l]` and `pairs[g, h][l, m]`, g before h."""

    fixed: float = 0.0
    alone: dict[int, Values] = field(default_factory=dict)
    pairs: dict[tuple[int, int], Values] = field(default_factory=dict)

    def add(self, values: Any, *groups: int) -> None:
        """Add a number, an array over the levels of one group, or a matrix over those of two."""
        values = np.asarray(values, float)
        if not groups:
            self.fixed += float(values)
        elif len(groups) == 1 or groups[0] == groups[1]:
            own = values if len(groups) == 1 else np.diag(values)
            self.alone[groups[0]] = self.alone.get(groups[0], 0.0) + own
        else:
            first, second = sorted(groups)
            matrix = values if (first, second) == groups else values.T
            self.pairs[first, second] = self.pairs.get((first, second), 0.0) + matrix

    def add_cost(self, other: Cost) -> None:
        """Add another cost."""
        self.add(other.fixed)
        for g, values in other.alone.items():
            self.add(values, g)
        for pair, values in other.pairs.items():
            self.add(values, *pair)

    def add_product(self, scale: float, *forms: Form) -> None:
        """Add `scale` times the product of at most two linear forms that are not constant."""
        constant, varying = scale, []
        for form in forms:
            if form.units:
                varying.append(form)
            else:
                constant *= form.fixed
        if len(varying) > 2:
            raise ValueError(f"a cost must be a product of at most two widths, not {len(varying)}")
        if not varying:
            return self.add(constant)
        first, second = [*varying, Form(1.0, {})][:2]
        self.add(constant * first.fixed * second.fixed)
        for g, values in first.units.items():
            self.add(constant * second.fixed * values, g)
        for h, values in second.units.items():
            self.add(constant * first.fixed * values, h)
            for g, others in first.units.items():
                self.add(constant * np.outer(others, values), g, h)

    def at(self, levels: Sequence[int]) -> float:
        """The cost of a choice."""
        alone = sum(float(values[levels[g]]) for g, values in self.alone.items())
        return self.fixed + alone + sum(float(values[levels[g], levels[h]]) for (g, h), values in self.pairs.items())


@dataclass(frozen=True)
class Form:
    """A width: `fixed` and for some groups what each of their levels adds."""

    fixed: float
    units: dict[int, Values]


@dataclass(frozen=True)
class Problem:
    """For each group what is lost at each of its levels, the first being the whole group; the cost of all, and costs
    of which only the most counts in addition, such as what lies in memory at each moment."""

    losses: Sequence[Values]
    cost: Cost
    moments: Sequence[Cost] = ()

    def at(self, levels: Sequence[int]) -> float:
        """The whole cost of a choice."""
        return self.cost.at(levels) + max((moment.at(levels) for moment in self.moments), default=0.0)

    def loss(self, levels: Sequence[int]) -> float:
        """What a choice loses."""
        return sum(float(values[level]) for values, level in zip(self.losses, levels, strict=True))


def choose_levels(problem: Problem, limit: float) -> list[int] | None:
    """The level of each group with the least loss at a cost of at most `limit`; None when there is none.

    Exact to one part in ten thousand, if the solver is done in time.
    """
    if problem.at([0] * len(problem.losses)) <= limit:
        return [0] * len(problem.losses)
    return _solve(problem, limit)


def cheapest_levels(problem: Problem) -> list[int]:
    """The level of each group with the least cost."""
    found = _solve(problem, None)
    assert found is not None
    return found


def _solve(problem: Problem, limit: float | None) -> list[int] | None:
    """Least loss within a limit, or the least cost where there is none."""
    if not problem.losses:
        return [] if limit is None or problem.at([]) <= limit else None
    columns = _Columns(problem)
    unit = abs(problem.at([0] * len(problem.losses))) or 1.0  # solvers have absolute tolerances
    cost = columns.row(problem.cost) / unit
    peak = np.zeros(columns.count)
    peak[-1] = 1.0
    constraints = [columns.consistency()]
    for moment in problem.moments:
        row = columns.row(moment) / unit - peak
        constraints.append(LinearConstraint(row, -np.inf, -moment.fixed / unit))
    if limit is None:
        objective = cost + peak
    else:
        room = (limit - problem.cost.fixed) / unit
        if room < 0:
            return None
        constraints.append(LinearConstraint(cost + peak, -np.inf, room * (1 + SLACK)))
        losses = np.concatenate([*problem.losses, np.zeros(columns.count - columns.levels)])
        objective = losses / (losses.max() or 1.0)
    found = milp(
        objective,
        integrality=np.arange(columns.count) < columns.levels,
        bounds=Bounds(0, np.where(np.arange(columns.count) == columns.count - 1, np.inf, 1.0)),
        constraints=constraints,
        options={"time_limit": TIME_LIMIT, "mip_rel_gap": GAP},
    )
    if found.x is None:
        return None
    return [int(np.argmax(found.x[part])) for part in columns.parts]


class _Columns:
    """The variables: whether each group has each level, whether each pair has each pair of levels, the peak."""

    def __init__(self, problem: Problem) -> None:
        sizes = [len(values) for values in problem.losses]
        starts = np.cumsum([0, *sizes])
        self.parts = [slice(*ends) for ends in itertools.pairwise(starts.tolist())]
        self.levels = int(starts[-1])
        pairs = {pair for cost in (problem.cost, *problem.moments) for pair in cost.pairs}
        self._shapes = {(g, h): (sizes[g], sizes[h]) for g, h in sorted(pairs)}
        ends = self.levels + np.cumsum([0, *(m * n for m, n in self._shapes.values())])
        self._pairs = dict(zip(self._shapes, ends[:-1].tolist(), strict=True))
        self.count = int(ends[-1]) + 1

    def row(self, cost: Cost) -> Values:
        """A cost's factors, without what is fixed."""
        row = np.zeros(self.count)
        for g, values in cost.alone.items():
            row[self.parts[g]] += values
        for pair, values in cost.pairs.items():
            start = self._pairs[pair]
            row[start : start + values.size] += values.ravel()
        return row

    def consistency(self) -> LinearConstraint:
        """One level a group; a pair of levels is taken exactly when both are."""
        entries: list[tuple[int, int, float]] = []
        for g, part in enumerate(self.parts):
            entries += [(g, column, 1.0) for column in range(part.start, part.stop)]
        number = len(self.parts)
        for (g, h), (m, n) in self._shapes.items():
            start = self._pairs[g, h]
            for group, members in ((g, _lines(start, m, n, down=False)), (h, _lines(start, m, n, down=True))):
                for level, line in enumerate(members):
                    entries += [(number, column, 1.0) for column in line]
                    entries.append((number, self.parts[group].start + level, -1.0))
                    number += 1
        rows, places, values = zip(*entries, strict=True)
        wanted = np.concatenate([np.ones(len(self.parts)), np.zeros(number - len(self.parts))])
        return LinearConstraint(coo_array((values, (rows, places)), (number, self.count)).tocsc(), wanted, wanted)


def _lines(start: int, m: int, n: int, *, down: bool) -> list[range]:
    """The variables in each column of a matrix whose elements begin at `start`, or in each row."""
    if down:
        return [range(start + j, start + m * n, n) for j in range(n)]
    return [range(start + i * n, start + (i + 1) * n) for i in range(m)]
