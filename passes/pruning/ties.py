"""Which indices of a Program's values go together: ties between axes, what must stay whole, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

Indices = NDArray[np.int64]

VALUE = -1
FACTOR = -2


class Axis(NamedTuple):
    """One dim of a node's value. `part` is which of several results, VALUE for the only one.

    With FACTOR it is not of a value: a factor of an axis that the node takes apart or puts together, such as the heads
    of a reshape, or the groups of a grouped convolution.
    """

    node: Node
    dim: int
    part: int = VALUE

    def __str__(self) -> str:
        if self.part == FACTOR:
            return f"factor {self.dim} of %{self.node.name}"
        return f"%{self.node.name}{'' if self.part == VALUE else f'[{self.part}]'} dim {self.dim}"


AxisKey = tuple[str, int, int]
"""An axis by the name of its node, which is the same in a clone."""


def key_of(axis: Axis) -> AxisKey:
    """The axis by names and numbers."""
    return axis.node.name, axis.dim, axis.part


@dataclass(frozen=True, eq=False)
class Tie:
    """Index `first_indices[i]` of one axis goes when `second_indices[i]` of the other does, because of `node`."""

    first: Axis
    second: Axis
    first_indices: Indices
    second_indices: Indices
    node: Node


@dataclass(frozen=True, eq=False)
class Split:
    """An axis whose indices are those of `factors`, outermost first. Only one factor can lose indices."""

    axis: Axis
    factors: tuple[Axis, ...]
    node: Node


@dataclass(frozen=True)
class Hold:
    """Why indices of an axis stay: what `node` does."""

    axis: Axis
    node: Node
    reason: str
    indices: Indices | None = None  # all of them


@dataclass
class Ties:
    """What the index maps of all nodes state. `node` is the node whose map is being asked."""

    node: Node
    sizes: dict[Axis, int] = field(default_factory=dict)
    ties: list[Tie] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    reluctant: set[Axis] = field(default_factory=set)
    contracted: list[tuple[Axis, Axis]] = field(default_factory=list)

    def axis(self, value: Node, dim: int, part: int = VALUE) -> Axis:
        """The axis of a value, which negative dims count from the last. One of unknown size stays whole."""
        size = _tensor(value, part).shape[dim]
        axis = Axis(value, dim % _tensor(value, part).dim(), part)
        if axis not in self.sizes:
            self.sizes[axis] = size if isinstance(size, int) else 0
        return axis

    def axes(self, value: Node) -> list[Axis]:
        """All axes of a value, of each of its results if there are several."""
        found = value.meta["val"]
        if isinstance(found, torch.Tensor):
            return [self.axis(value, dim) for dim in range(found.dim())]
        tensors = found if isinstance(found, list | tuple) else ()
        return [
            self.axis(value, dim, part)
            for part, tensor in enumerate(tensors)
            if isinstance(tensor, torch.Tensor)
            for dim in range(tensor.dim())
        ]

    def factor(self, number: int, size: int) -> Axis:
        """A factor of what the node takes apart."""
        axis = Axis(self.node, number, FACTOR)
        self.sizes[axis] = size
        return axis

    def same(self, first: Axis, second: Axis) -> None:
        """Index i of one goes with index i of the other. Where sizes differ, one is broadcast and nothing is tied."""
        n, m = self.sizes[first], self.sizes[second]
        if n != m or n == 0:
            for axis in (first, second):
                if 0 in (n, m):
                    self.hold(axis, "a size that varies")
            return
        self.tie(first, np.arange(n), second, np.arange(n))

    def tie(self, first: Axis, first_indices: Indices, second: Axis, second_indices: Indices) -> None:
        """Pairs of indices go together."""
        self.ties.append(Tie(first, second, first_indices, second_indices, self.node))

    def split(self, axis: Axis, factors: Sequence[Axis]) -> None:
        """The axis' indices are those of the factors, outermost first."""
        if len(factors) == 1:
            return self.same(axis, factors[0])
        self.splits.append(Split(axis, tuple(factors), self.node))

    def hold(self, axis: Axis, reason: str) -> None:
        """All indices of the axis must stay."""
        self.holds.append(Hold(axis, self.node, reason))

    def hold_value(self, value: Any, reason: str) -> None:
        """All axes of a value must stay whole."""
        if isinstance(value, Node):
            for axis in self.axes(value):
                self.hold(axis, reason)

    def contract(self, first: Axis, second: Axis) -> None:
        """Products of the two are added up over this axis, so that an index that goes is a zero in both."""
        self.same(first, second)
        self.contracted.append((first, second))

    def broadcast(self, value: Any, result: Node, skip: Sequence[int] = (), dims: int | None = None) -> None:
        """The last dims of an operand and of the result are the same, size 1 being repeated; not the dims in `skip`."""
        if not isinstance(value, Node) or not isinstance(value.meta.get("val"), torch.Tensor):
            return
        m, n = value.meta["val"].dim(), result.meta["val"].dim()
        skipped = {dim % n for dim in skip}
        for back in range(1, min(m, n) + 1):
            if n - back not in skipped:
                self.same(self.axis(value, m - back), self.axis(result, n - back))

    def broadcast_axis(self, value: Node, result: Node, back: int) -> None:
        """As `broadcast` for the one dim that is the `back`-th from the last."""
        if rank(value) >= back:
            self.same(self.axis(value, -back), self.axis(result, -back))


def size_of(node: Node, dim: int) -> Any:
    """A size of a node's value, an int or a symbol."""
    return node.meta["val"].shape[dim]


def rank(node: Node) -> int:
    """How many dims a node's value has."""
    return int(node.meta["val"].dim())


def _tensor(value: Node, part: int) -> torch.Tensor:
    found = value.meta["val"]
    tensor: torch.Tensor = found if part == VALUE else found[part]
    return tensor
