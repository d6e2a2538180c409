"""Which units go: a ranking within each group or over all of them, under each group's budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from .config import PruneConfig
from .groups import Group
from .importance import Scores


def choose(
    scores: Mapping[Group, Scores],
    config: PruneConfig,
    *,
    ratios: Mapping[Group, float],
    original: Mapping[Group, int],
    share: float = 1.0,
) -> dict[Group, list[int]]:
    """The units of each group to remove, in order.

    `original` is how many units each group had before any step of a schedule, `share` how much of all that is to go is
    gone after this one. Every group keeps at least one unit.
    """
    if config.ranking == "global":
        wanted = _global(scores, config, ratios, original, share)
    else:
        wanted = {group: _floor(ratios.get(group, config.ratio) * share, original[group]) for group in scores}
    chosen = {}
    for group, each in scores.items():
        gone = wanted[group] - (original[group] - group.size)
        count = group.size - _rounded(group, group.size - max(0, gone), config.multiple)
        # of equally important units the last go, so that ties are decided the same way everywhere
        order = np.lexsort((-np.arange(group.size), each))
        chosen[group] = sorted(int(unit) for unit in order[:count])
    return chosen


def _floor(ratio: float, size: int) -> int:
    """Never more than asked for: the share that the ratio as written in decimals has, rounded down."""
    return min(size - 1, math.floor(Fraction(repr(ratio)) * size + Fraction(1, 10**9)))


def _rounded(group: Group, left: int, multiple: int) -> int:
    """The least number of units of at least `left` whose indices are a multiple, or all of them."""
    step = multiple // math.gcd(multiple, group.width)
    return min(group.size, max(1, math.ceil(left / step) * step))


def _global(
    scores: Mapping[Group, Scores],
    config: PruneConfig,
    ratios: Mapping[Group, float],
    original: Mapping[Group, int],
    share: float,
) -> dict[Group, int]:
    """How many units of each group go when the least important of all go first."""
    free = [group for group in scores if group not in ratios]
    wanted = {group: _floor(ratios[group] * share, original[group]) for group in scores if group in ratios}
    already = sum(original[group] - group.size for group in free)
    budget = math.floor(config.ratio * share * sum(original[group] for group in free) + 1e-9) - already
    candidates = []
    for number, group in enumerate(free):
        order = np.sort(scores[group])
        spare = _floor(config.most, original[group]) - (original[group] - group.size)
        candidates += [(value, number) for value in order[: max(0, spare)].tolist()]
    taken = [number for _, number in sorted(candidates)[: max(0, budget)]]
    for number, group in enumerate(free):
        wanted[group] = original[group] - group.size + taken.count(number)
    return wanted
