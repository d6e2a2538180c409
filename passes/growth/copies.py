"""What copying units does to the axes of a Program: the new indices of each, and what stands in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from ...ops import fxpress
from ...program import Program
from ..match import arguments, is_call, is_constant
from ..pruning.groups import Group, Groups
from ..pruning.layer_maps import INNER_X
from ..pruning.reduction_maps import REDUCTIONS, reduced_dims
from ..pruning.ties import FACTOR, VALUE, Axis, Indices

aten = torch.ops.aten

INDIFFERENT = frozenset({aten.amax.default, aten.amin.default})
"""Reductions that copies of what they see do not change."""
MEANS = frozenset({aten.mean.dim, aten.mean.default})
"""Those that equally many copies of everything do not change."""
NORMS = frozenset({aten.layer_norm.default, aten.rms_norm.default})
GROUP_NORMS = frozenset({aten.group_norm.default, fxpress.group_norm.default})
TRANSPOSED = frozenset(
    {
        *(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
        fxpress.conv_transpose.default,
    }
)
RECURRENT = frozenset({aten.gru.input, aten.lstm.input})
UNEVEN = "means over all units need equally many copies of each: its ratio must be a whole number"


@dataclass(frozen=True, eq=False)
class Copies:
    """How often each unit of some groups is there afterwards, at least once: `times[group][unit]`.

    Copies of a unit lie behind it. Neighbouring indices of one unit, such as those of a head, are copied as a run.
    """

    groups: Groups
    times: Mapping[Group, Indices]

    def indices(self, axis: Axis) -> Indices:
        """The old indices of an axis in their new order."""
        labels, counts = self._labels(axis)
        starts = np.flatnonzero(np.diff(labels, prepend=-2))
        runs = np.split(np.arange(len(labels)), starts[1:])
        return np.concatenate([np.tile(run, counts[run[0]]) for run in runs]) if len(labels) else labels

    def count(self, axis: Axis) -> int:
        """How many indices an axis has afterwards."""
        return int(self.multiplicity(axis).sum())

    def multiplicity(self, axis: Axis) -> Indices:
        """How often each old index of an axis is there afterwards."""
        return self._labels(axis)[1]

    def changes(self, axis: Axis) -> bool:
        """Whether any index of the axis is copied."""
        return any(axis in group.units for group in self.times) and bool((self.multiplicity(axis) > 1).any())

    def is_even(self, axis: Axis) -> bool:
        """Whether all indices of an axis have the same number of copies."""
        return len(np.unique(self.multiplicity(axis))) <= 1

    def _labels(self, axis: Axis) -> tuple[Indices, Indices]:
        """For each index of an axis a number for its unit, -1 for one that stays alone, and how often it is there."""
        size = self.groups.sizes.get(axis, 0)
        labels, counts = np.full(size, -1, dtype=np.int64), np.ones(size, dtype=np.int64)
        first = 0
        for group, times in self.times.items():
            numbers = group.units.get(axis)
            if numbers is not None:
                own = numbers >= 0
                labels[own], counts[own] = first + numbers[own], times[numbers[own]]
            first += group.size
        return labels, counts


def even_times(group: Group, total: int, seed: int) -> Indices:
    """Each unit as often as the others, and what is left of `total` by lot."""
    times = np.full(group.size, total // group.size, dtype=np.int64)
    chance = np.random.default_rng([seed, *group.name.encode()])
    times[chance.permutation(group.size)[: total % group.size]] += 1
    return times


def stored(axis: Axis) -> Axis:
    """The axis of the constant that an axis of a transposed constant is; any other axis itself."""
    if axis.part == VALUE and is_call(axis.node, aten.permute.default):
        return stored(Axis(axis.node.args[0], axis.node.args[1][axis.dim] % axis.node.meta["val"].dim()))
    return axis


def _readers(constant: Node) -> int:
    """How many calls read a constant, transposed or not."""
    return sum(_readers(user) if is_call(user, aten.permute.default) else 1 for user in constant.users)


def summed_weights(program: Program, groups: Groups) -> Counter[Axis]:
    """The axes of constants that products are summed up over, and by how many calls."""
    axes = (stored(axis) for pair in groups.contracted for axis in pair)
    found = Counter(axis for axis in axes if is_constant(axis.node))
    for node in program.nodes:
        if is_call(node, *RECURRENT):  # a state is multiplied with the columns of the weights that read it
            for axis in (Axis(x, 1) for x in arguments(node)["params"] if len(x.meta["val"].shape) == 2):
                found[axis] = max(found[axis], 1)
    return found


def obstacles(program: Program, copies: Copies) -> Iterator[tuple[Axis, str]]:
    """The axes whose copies would change what the Program computes, each with the reason."""
    summed = summed_weights(program, copies.groups)
    for pair in copies.groups.contracted:
        constants = [axis for axis in pair if is_constant(stored(axis).node)]
        if len(constants) != 1 and copies.changes(pair[0]):
            yield pair[0], "products of two computed values are summed up over its units"
    for axis, calls in summed.items():
        readers = sum(_readers(x) for x in program.nodes if x.op == "get_attr" and x.target == axis.node.target)
        if copies.changes(axis) and calls != readers:
            yield axis, f"%{axis.node.name} is read both by what sums up over its units and by what does not"
    for node in program.nodes:
        if node.op == "call_function":
            yield from _uneven(node, copies)


def _uneven(node: Node, copies: Copies) -> Iterator[tuple[Axis, str]]:
    """Axes along which a call computes one number from all units."""
    if is_call(node, *REDUCTIONS):
        a = arguments(node)
        for axis in (Axis(a["self"], dim) for dim in sorted(reduced_dims(a["self"], a))):
            if not copies.changes(axis) or node.target in INDIFFERENT:
                continue
            if node.target not in MEANS:
                yield axis, f"%{node.name} ({node.target}) is over its units and would count copies"
            elif not copies.is_even(axis):
                yield axis, UNEVEN
    elif is_call(node, *NORMS):
        rank = node.meta["val"].dim()
        axes = [Axis(node, dim) for dim in range(rank - len(arguments(node)["normalized_shape"]), rank)]
        yield from ((axis, UNEVEN) for axis in axes if not copies.is_even(axis))
    elif is_call(node, *TRANSPOSED) and copies.changes(Axis(node, INNER_X, FACTOR)):
        yield (
            Axis(node, INNER_X, FACTOR),
            f"%{node.name} is a transposed convolution in groups, and sums up over its units",
        )
    elif is_call(node, *GROUP_NORMS):
        a = arguments(node)
        rank = node.meta["val"].dim()
        channels = rank - 1 if a.get("channels_last") else 1
        seen = [Axis(node, dim) for dim in range(1, rank) if dim != channels]  # besides channels of a group
        yield from ((axis, UNEVEN) for axis in (*seen, Axis(node, INNER_X, FACTOR)) if not copies.is_even(axis))
