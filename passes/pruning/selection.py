"""Which units go: a ranking within each group or over all of them, under each group's budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .config import PruneConfig, count_of
from .groups import Group
from .importance import Scores
from .widths import EXACT, Rounding


def choose(
    scores: Mapping[Group, Scores],
    config: PruneConfig,
    *,
    ratios: Mapping[Group, float],
    original: Mapping[Group, int],
    share: float = 1.0,
    rounding: Rounding = EXACT,
) -> dict[Group, list[int]]:
    """The units of each group to remove, in order.

    `original` is how many units each group had before any step of a schedule, `share` how much of all that is to go is
    gone after this one. Every group keeps at least one unit, and what it keeps is rounded up.
    """
    if config.ranking == "global":
        wanted = _global(scores, config, ratios, original, share)
    else:
        wanted = {group: count_of(ratios.get(group, config.goal) * share, original[group]) for group in scores}
    chosen = {}
    for group, each in scores.items():
        gone = wanted[group] - (original[group] - group.size)
        count = group.size - rounding.units(group, group.size - max(0, gone))
        chosen[group] = least_important(each, count)
    return chosen


def least_important(scores: Scores, count: int) -> list[int]:
    """The `count` units that go first, in order."""
    # of equally important units the last go, so that ties are decided the same way everywhere
    order = np.lexsort((-np.arange(len(scores)), scores))
    return sorted(int(unit) for unit in order[:count])


def _global(
    scores: Mapping[Group, Scores],
    config: PruneConfig,
    ratios: Mapping[Group, float],
    original: Mapping[Group, int],
    share: float,
) -> dict[Group, int]:
    """How many units of each group go when the least important of all go first."""
    free = [group for group in scores if group not in ratios]
    wanted = {group: count_of(ratios[group] * share, original[group]) for group in scores if group in ratios}
    already = sum(original[group] - group.size for group in free)
    budget = math.floor(config.goal * share * sum(original[group] for group in free) + 1e-9) - already
    spare = [count_of(config.most, original[group]) - (original[group] - group.size) for group in free]
    counts = least_of_all([scores[group] for group in free], spare, budget)
    for group, count in zip(free, counts, strict=True):
        wanted[group] = original[group] - group.size + count
    return wanted


def least_of_all(scores: Sequence[Scores], most: Sequence[int], count: int) -> list[int]:
    """How many of each are among the `count` least of all together, where of each at most `most` may be."""
    least = [np.sort(each)[: max(0, limit)] for each, limit in zip(scores, most, strict=True)]
    owners = np.repeat(np.arange(len(least)), [len(each) for each in least])
    taken = np.argsort(np.concatenate([np.empty(0), *least]), kind="stable")[: max(0, count)]
    return [int(n) for n in np.bincount(owners[taken], minlength=len(least))]
