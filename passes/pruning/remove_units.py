"""conv(x, w), linear(x, w), reshape(x, n), ...  ->  the same without the indices that a Removal names"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch.fx import Node

from ...errors import InvalidInput
from ...program import Program
from ...report.pruned import WIDTHS, GroupWidth
from ...rewriter import Accuracy, Pass, Rewriter
from ...search.ranges import not_searched
from ..match import arguments
from .groups import Group, Groups
from .index_maps import literals_of
from .ties import Axis, AxisKey, Indices, key_of


@dataclass(frozen=True, eq=False)
class Removal:
    """Which indices go, of every axis that loses any: `gone[node's name, dim, part]`. `sizes` are those before.

    `widths` are what is left of each group, then what stays whole; `units` those of each group that go, by its name.
    """

    gone: Mapping[AxisKey, Indices]
    sizes: Mapping[AxisKey, int]
    widths: tuple[GroupWidth, ...] = ()
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @staticmethod
    def of(
        groups: Groups, removed: Mapping[Group, Sequence[int]], asked: Mapping[Group, Sequence[int]] | None = None
    ) -> Removal:
        """The removal of some units of some groups, which may be fewer than were `asked` for.

        Raises InvalidInput where nothing would be left.
        """
        gone: dict[AxisKey, list[Indices]] = {}
        widths = []
        for group, units in removed.items():
            wanted = group.size - len(set((asked or removed)[group]))
            left = group.size - len(set(units))
            widths.append(GroupWidth(group.name, tuple(x.name for x in group.layers), group.size, wanted, left))
            if left == group.size:
                continue
            if left <= 0:
                raise InvalidInput(
                    f"group {group.name} must keep at least one of its {group.size} units, not lose all; "
                    "lower its ratio"
                )
            for axis in group.units:
                gone.setdefault(key_of(axis), []).append(group.indices(axis, units))
        sizes = {key_of(axis): size for axis, size in groups.sizes.items()}
        for whole in groups.blocked:
            size = sizes[key_of(whole.axes[0])]
            layers = tuple(x.name for x in whole.layers)
            widths.append(GroupWidth(str(whole.axes[0]), layers, size, size, size, whole.why))
        units_of = {group.name: tuple(sorted(set(map(int, units)))) for group, units in removed.items() if len(units)}
        unique = {key: np.unique(np.concatenate(parts)) for key, parts in gone.items()}
        return Removal(unique, sizes, tuple(widths), units_of)

    def indices(self, axis: Axis) -> Indices:
        """The indices of the axis that are left, in order."""
        return np.setdiff1d(np.arange(self.sizes[key_of(axis)]), self.gone.get(key_of(axis), ()))

    def count(self, axis: Axis) -> int:
        """How many indices of the axis are left."""
        return self.sizes[key_of(axis)] - len(self.gone.get(key_of(axis), ()))

    @property
    def touched(self) -> set[str]:
        """The names of the nodes whose values lose indices."""
        return {name for name, _, _ in self.gone}


@dataclass(frozen=True, eq=False)
class RemoveUnits(Pass):
    """conv(x, w), linear(x, w), reshape(x, n), ...  ->  the same without the indices that a Removal names

    Constants lose slices, and arguments that count indices change with them. What is computed equals, up to rounding,
    the original with zeros where consumers read what is gone, and norms over what is left.
    """

    name: ClassVar[str] = WIDTHS
    accuracy: ClassVar[Accuracy] = "lossy"
    establishes: ClassVar[tuple[str, ...]] = ("pruned",)
    removal: Removal | None = None
    held: Iterable[tuple[str, str]] = field(default=())
    again: bool = field(default=False, metadata=not_searched("it is of the units"))
    """Of the groups of the remove-units before it, not of groups found anew."""
    promise: str = field(default="", metadata=not_searched("it is a note"))
    """What a budget allows and what was measured, to be told with what is left."""

    @property
    def gone(self) -> Mapping[AxisKey, Indices]:
        """What the pass removes."""
        return {} if self.removal is None else self.removal.gone

    def options(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name

    def run(self, program: Program, rw: Rewriter) -> None:
        if self.removal is None:
            raise InvalidInput("remove-units must be given a Removal, which fxpress.prune makes; it has no default")
        names = {node.name: node for node in program.nodes}
        for name, reason in self.held:
            rw.skip(names[name], reason)
        rw.decisions += [width.to_json() for width in self.removal.widths]
        sizes = {width.name: width.units for width in self.removal.widths}
        rw.recipe = {
            "pass": self.name,
            "again": self.again,
            "groups": [{"name": n, "size": sizes[n], "gone": list(gone)} for n, gone in self.removal.units.items()],
        }
        if self.promise:
            rw.log.append(self.promise)
        if not self.removal.gone:
            return
        rw.burn()
        literals = {node: literals_of(node, self.removal) for node in program.nodes}
        changed = self.removal.touched
        for node in program.nodes:
            if node.op == "get_attr" and node.name in changed:
                rw.set_constant(node, self._left(program.constant(node), node))
        for node in program.nodes:
            if node.op != "call_function":
                continue
            if node.name in changed or literals[node] or any(x.name in changed for x in node.all_input_nodes):
                _update(node, literals[node], rw)
        rw.log += [width.text() for width in self.removal.widths if width.pruned or width.asked < width.left]

    def _left(self, tensor: torch.Tensor, node: Node) -> torch.Tensor:
        assert self.removal is not None
        for dim in range(tensor.dim()):
            axis = Axis(node, dim)
            if self.removal.count(axis) < tensor.shape[dim]:
                tensor = tensor.index_select(dim, torch.from_numpy(self.removal.indices(axis)))
        return tensor.contiguous()


def _update(node: Node, literals: Mapping[str, Any], rw: Rewriter) -> None:
    if not literals or node.target is operator.getitem:
        return rw.update(node, *node.args, **node.kwargs)
    values = arguments(node) | dict(literals)
    op: Any = node.target
    schema = op._schema.arguments
    positional = [values[a.name] for a in schema if not a.kwarg_only]
    while len(positional) > len(node.args) and schema[len(positional) - 1].has_default_value():
        if positional[-1] != schema[len(positional) - 1].default_value:
            break
        positional.pop()
    named = {a.name: values[a.name] for a in schema if a.kwarg_only and (a.name in node.kwargs or a.name in literals)}
    rw.update(node, *positional, **named)
