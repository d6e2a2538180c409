"""Units as connected components of indices, and which factor of each reshaped axis may lose indices."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .ties import Axis, Indices, Split, Tie, Ties

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Components:
    """The components of all indices. A component is free when nothing holds any of its indices.

    `choices` holds each split with the factor that may lose indices, if any; `links` the ties that follow from it.
    """

    sizes: dict[Axis, int]
    offsets: dict[Axis, int]
    labels: Indices
    free: Flags
    choices: tuple[tuple[Split, Axis | None], ...]
    links: tuple[Tie, ...]

    def labels_of(self, axis: Axis) -> Indices:
        """The component of each index of an axis."""
        first = self.offsets[axis]
        return self.labels[first : first + self.sizes[axis]]


def connect(ties: Ties) -> Components:
    """Choose a factor for each split, and connect all indices that are tied.

    A split's candidates are the factors with free units. One that heads of attention are made of goes before the depth
    of a head, one that was chosen elsewhere before a new one, then the one with most units.
    """
    return _Connecting(ties).run()


class _Connecting:
    def __init__(self, ties: Ties) -> None:
        self._ties = ties
        sizes = list(ties.sizes.values())
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._offsets = dict(zip(ties.sizes, starts[:-1].tolist(), strict=True))
        self._count = int(starts[-1])
        self._held = np.zeros(self._count, dtype=bool)
        self._reluctant = np.zeros(self._count, dtype=bool)
        self._chosen = np.zeros(self._count, dtype=bool)
        self._edges: list[tuple[Indices, Indices]] = [
            (self._offsets[t.first] + t.first_indices, self._offsets[t.second] + t.second_indices) for t in ties.ties
        ]
        self._links: list[Tie] = []
        for hold in ties.holds:
            self._mark(self._held, hold.axis)
        for axis in ties.reluctant:
            self._mark(self._reluctant, axis)

    def run(self) -> Components:
        open_splits = list(self._ties.splits)
        choices: list[tuple[Split, Axis | None]] = []
        labels, count = self._labels()
        while open_splits:
            ranked = {id(split): self._candidates(split, labels, count) for split in open_splits}
            # what has no choice is decided first: it may leave others without one
            decided = [s for s in open_splits if not ranked[id(s)]] or [
                s for s in open_splits if len(ranked[id(s)]) == 1
            ]
            for split in decided or open_splits[:1]:
                factor = ranked[id(split)][0] if ranked[id(split)] else None
                self._decide(split, factor)
                choices.append((split, factor))
                open_splits.remove(split)
            labels, count = self._labels()
        free = ~self._flagged(self._held, labels, count)
        sizes, links = self._ties.sizes, tuple(self._links)
        return Components(sizes, self._offsets, labels, free, tuple(choices), links)

    def _slice(self, axis: Axis) -> slice:
        first = self._offsets[axis]
        return slice(first, first + self._ties.sizes[axis])

    def _mark(self, flags: Flags, axis: Axis) -> None:
        flags[self._slice(axis)] = True

    def _labels(self) -> tuple[Indices, int]:
        ends = [np.concatenate([edge[side] for edge in self._edges] or [np.zeros(0, np.int64)]) for side in (0, 1)]
        graph = coo_array((np.ones(len(ends[0]), dtype=bool), (ends[0], ends[1])), shape=(self._count, self._count))
        count, labels = connected_components(graph, directed=False)
        return labels.astype(np.int64), int(count)

    @staticmethod
    def _flagged(flags: Flags, labels: Indices, count: int) -> Flags:
        result = np.zeros(count, dtype=bool)
        result[labels[flags]] = True
        return result

    def _candidates(self, split: Split, labels: Indices, count: int) -> list[Axis]:
        """The factors that can lose indices, the best first."""
        flags = [self._flagged(f, labels, count) for f in (self._held, self._reluctant, self._chosen)]
        ranks = []
        for order, factor in enumerate(split.factors):
            whole, digits = labels[self._slice(split.axis)], _digits(split, factor, self._ties.sizes)
            own = labels[self._slice(factor)]
            names, ends = np.unique(np.concatenate([whole, own[digits]]), return_inverse=True)
            n = len(whole)
            pairs = coo_array((np.ones(n, dtype=bool), (ends[:n], ends[n:])), shape=(len(names), len(names)))
            units, unit = connected_components(pairs, directed=False)
            held, reluctant, chosen = (self._flagged(f[names], unit, units) for f in flags)
            free = int((~held).sum())
            if free:
                ranks.append((bool(reluctant.any()), not chosen.any(), -free, order, factor))
        return [factor for *_, factor in sorted(ranks, key=lambda rank: rank[:4])]

    def _decide(self, split: Split, chosen: Axis | None) -> None:
        for factor in split.factors:
            if factor is not chosen:
                self._mark(self._held, factor)
        if chosen is None:
            return self._mark(self._held, split.axis)
        self._mark(self._chosen, chosen)
        digits = _digits(split, chosen, self._ties.sizes)
        self._links.append(Tie(split.axis, chosen, np.arange(len(digits)), digits, split.node))
        self._edges.append((self._offsets[split.axis] + np.arange(len(digits)), self._offsets[chosen] + digits))


def _digits(split: Split, factor: Axis, sizes: dict[Axis, int]) -> Indices:
    """The index of the factor that each index of the split's axis has."""
    inner = prod(sizes[f] for f in split.factors[split.factors.index(factor) + 1 :])
    return np.arange(sizes[split.axis]) // inner % sizes[factor]
