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
        self._labels: Indices = np.arange(self._count)
        self._join(
            [(self._places(t.first, t.first_indices), self._places(t.second, t.second_indices)) for t in ties.ties]
        )
        self._links: list[Tie] = []
        for hold in ties.holds:
            self._mark(self._held, hold.axis)
        for axis in ties.reluctant:
            self._mark(self._reluctant, axis)

    def run(self) -> Components:
        open_splits = list(self._ties.splits)
        choices: list[tuple[Split, Axis | None]] = []
        while open_splits:
            flags = tuple(self._flagged(flags) for flags in (self._held, self._reluctant, self._chosen))
            ranked = [(split, self._candidates(split, flags)) for split in open_splits]
            # what has no choice is decided first: it may leave others without one
            decided = [x for x in ranked if not x[1]] or [x for x in ranked if len(x[1]) == 1] or ranked[:1]
            edges = []
            for split, factors in decided:
                chosen = factors[0] if factors else None
                edges += self._decide(split, chosen)
                choices.append((split, chosen))
                open_splits.remove(split)
            self._join(edges)
        free = ~self._flagged(self._held)
        return Components(self._ties.sizes, self._offsets, self._labels, free, tuple(choices), tuple(self._links))

    def _places(self, axis: Axis, indices: Indices) -> Indices:
        return np.asarray(self._offsets[axis] + indices, dtype=np.int64)

    def _slice(self, axis: Axis) -> slice:
        first = self._offsets[axis]
        return slice(first, first + self._ties.sizes[axis])

    def _mark(self, flags: Flags, axis: Axis) -> None:
        flags[self._slice(axis)] = True

    def _join(self, edges: list[tuple[Indices, Indices]]) -> None:
        """Give what the edges connect the same label."""
        if not edges:
            return
        first, second = (self._labels[np.concatenate([edge[side] for edge in edges])] for side in (0, 1))
        self._labels = _components(first, second, int(self._labels.max()) + 1)[self._labels]

    def _flagged(self, flags: Flags) -> Flags:
        """Which components have an index that is flagged."""
        result = np.zeros(int(self._labels.max(initial=-1)) + 1, dtype=bool)
        result[self._labels[flags]] = True
        return result

    def _candidates(self, split: Split, flags: tuple[Flags, ...]) -> list[Axis]:
        """The factors that can lose indices, best first. `flags` are those of components: held, reluctant, chosen."""
        whole = self._labels[self._slice(split.axis)]
        if flags[0][whole].all():
            return []
        ranks = []
        for order, factor in enumerate(split.factors):
            own = self._labels[self._slice(factor)]
            if flags[0][own].all():
                continue
            names, ends = np.unique(
                np.concatenate([whole, own[_digits(split, factor, self._ties.sizes)]]), return_inverse=True
            )
            unit = _components(ends[: len(whole)], ends[len(whole) :], len(names))
            units = int(unit.max()) + 1
            held, reluctant, chosen = (np.bincount(unit, f[names], units) > 0 for f in flags)
            free = int((~held).sum())
            if free:
                ranks.append((bool(reluctant.any()), not chosen.any(), -free, order, factor))
        return [factor for *_, factor in sorted(ranks, key=lambda rank: rank[:4])]

    def _decide(self, split: Split, chosen: Axis | None) -> list[tuple[Indices, Indices]]:
        """Hold all factors but one; the edges that the choice makes."""
        for factor in split.factors:
            if factor is not chosen:
                self._mark(self._held, factor)
        if chosen is None:
            self._mark(self._held, split.axis)
            return []
        self._mark(self._chosen, chosen)
        digits = _digits(split, chosen, self._ties.sizes)
        indices = np.arange(len(digits))
        self._links.append(Tie(split.axis, chosen, indices, digits, split.node))
        return [(self._places(split.axis, indices), self._places(chosen, digits))]


def _components(first: Indices, second: Indices, count: int) -> Indices:
    """The component of each of `count` nodes, where first[i] and second[i] are connected."""
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.int64)


def _digits(split: Split, factor: Axis, sizes: dict[Axis, int]) -> Indices:
    """The index of the factor that each index of the split's axis has."""
    inner = prod(sizes[f] for f in split.factors[split.factors.index(factor) + 1 :])
    return np.asarray(np.arange(sizes[split.axis]) // inner % sizes[factor], dtype=np.int64)
