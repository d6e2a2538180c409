"""What a Program costs at all widths of its groups: layers by their table, bytes of other constants and values."""

from __future__ import annotations

import operator
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from ...program import Program
from .config import PruneConfig, count_of
from .groups import Group, Groups
from .importance import Scores
from .layer_table import LayerCosts, Side
from .ties import VALUE, Axis
from .width_choice import Cost, Form, Values
from .widths import EXACT, Rounding, Widths

aten = torch.ops.aten
STEPS = 10
"""Into how many levels a group is divided between whole and the least that may stay."""


@dataclass(frozen=True)
class Levels:
    """How many units each group may keep, the whole group first."""

    groups: tuple[Group, ...]
    units: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(groups: Sequence[Group], config: PruneConfig, rounding: Rounding) -> Levels:
        """The levels that rounding leaves, down to where a group has lost `config.most` of its units."""

        def units(group: Group, rounding: Rounding) -> tuple[int, ...]:
            parts = (group.size - count_of(config.most * step / STEPS, group.size) for step in range(STEPS + 1))
            return tuple(sorted({rounding.units(group, left) for left in parts}, reverse=True))

        found = [units(group, rounding) for group in groups]
        if all(len(each) == 1 for each in found):
            found = [units(group, EXACT) for group in groups]  # a model too small for its widths to be rounded
        return Levels(tuple(groups), tuple(found))

    def left(self, levels: Sequence[int]) -> dict[Group, int]:
        """The units that groups keep at some levels."""
        return {group: units[level] for group, units, level in zip(self.groups, self.units, levels, strict=True)}

    def losses(self, scores: dict[Group, Scores]) -> list[Values]:
        """The importance that is lost at each level of each group, whose least important units go."""
        found = []
        for group, units in zip(self.groups, self.units, strict=True):
            lost = np.concatenate([[0.0], np.cumsum(np.sort(scores[group]))])
            found.append(np.array([lost[group.size - left] for left in units]))
        return found

    def form(self, fixed: float, parts: Sequence[tuple[Group, float]]) -> Form:
        """A width with `fixed` indices and some for each unit of groups."""
        numbers = {group: number for number, group in enumerate(self.groups)}
        return Form(fixed, {numbers[group]: np.array(self.units[numbers[group]]) * n for group, n in parts})


def layers_cost(table: Sequence[LayerCosts], levels: Levels) -> Cost:
    """What all layers of a table cost."""
    cost = Cost()
    for layer in table:
        _add_layer(cost, layer, levels)
    return cost


def _add_layer(cost: Cost, layer: LayerCosts, levels: Levels) -> None:
    numbers = {group: number for number, group in enumerate(levels.groups)}
    if any(len(side.groups) > 1 for side in layer.sides):
        return _add_corners(cost, layer, levels)
    groups = [numbers[group] for group in layer.groups]
    sizes = [len(levels.units[g]) for g in groups]
    costs = [
        layer.at({levels.groups[g]: levels.units[g][n] for g, n in zip(groups, choice, strict=True)})
        for choice in np.ndindex(*sizes)
    ]
    cost.add(np.reshape(costs, sizes), *groups)


def _add_corners(cost: Cost, layer: LayerCosts, levels: Levels) -> None:
    """A layer with a width of many groups: linear in each side, through the least and the most that were measured."""
    for corner in np.ndindex(*[2] * len(layer.sides)):
        forms = [_toward(side, levels, upper=bool(end)) for side, end in zip(layer.sides, corner, strict=True)]
        cost.add_product(float(layer.costs[tuple(-end for end in corner)]), *forms)


def _toward(side: Side, levels: Levels, upper: bool) -> Form:
    """1 at one end of a side's shares and 0 at the other, linear in between."""
    low, high = side.shares[0], side.shares[-1]
    if low == high:
        return Form(float(upper), {})
    whole = sum(group.size * weight for group, weight in side.groups.items())
    sign = 1.0 if upper else -1.0
    parts = [(group, sign * weight / whole / (high - low)) for group, weight in side.groups.items()]
    return levels.form(-low / (high - low) if upper else high / (high - low), parts)


def add_other_constants(cost: Cost, program: Program, groups: Groups, levels: Levels, layers: Container[str]) -> None:
    """Add the bytes of constants that neither `layers`, by their names, nor batch norms read, which go into layers."""
    widths, done = Widths(groups), set[str]()
    for node in program.nodes:
        folded = any(user.name in layers or user.target is aten.batch_norm.default for user in node.users)
        if node.op == "get_attr" and not folded and str(node.target) not in done:
            done.add(str(node.target))
            _add_bytes(cost, node, widths, levels)


def live_costs(program: Program, groups: Groups, levels: Levels, scratch: Sequence[LayerCosts]) -> list[Cost]:
    """Bytes in memory at each moment of a run, but for inputs and outputs: values, and what a layer's kernel needs."""
    widths, moments = Widths(groups), []
    layers = {layer.node: layer for layer in scratch if layer.costs.any()}
    values = {root: Cost() for root in set(_homes(program).values())}
    for root, cost in values.items():
        _add_bytes(cost, root, widths, levels)
    for live, node in _live(program, layers):
        moment = Cost()
        for root in live:
            moment.add_cost(values[root])
        if node in layers:
            _add_layer(moment, layers[node], levels)
        moments.append(moment)
    return moments


def _add_bytes(cost: Cost, node: Node, widths: Widths, levels: Levels) -> None:
    value = node.meta["val"]
    tensors = value if isinstance(value, list | tuple) else [value]
    for part, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor):
            continue
        axes = [Axis(node, dim, VALUE if tensor is value else part) for dim in range(tensor.dim())]
        forms = [levels.form(widths.fixed(axis), widths.parts(axis)) for axis in axes]
        varying = [form for form in forms if form.units]
        sizes = [float(size) for size, form in zip(tensor.shape, forms, strict=True) if not form.units]
        sizes += [float(tensor.shape[forms.index(form)]) for form in varying[2:]]  # a third width counts as whole
        cost.add_product(tensor.dtype.itemsize * float(np.prod(sizes)), *varying[:2])


def _homes(program: Program) -> dict[Node, Node]:
    """For each computed value the one whose memory it is in: views and elementwise ops take that of what they read."""
    homes: dict[Node, Node] = {}
    for node in program.nodes:
        if node.op != "call_function":
            continue
        source = next((x for x in node.all_input_nodes if x in homes), None)
        shares = source is not None and (_is_view(node) or (_is_elementwise(node) and len(source.users) == 1))
        homes[node] = homes[source] if shares and source is not None else node
    return homes


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.target is operator.getitem or bool(schema and any(a.alias_info for a in schema.arguments))


def _is_elementwise(node: Node) -> bool:
    is_pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ()) or node.target is aten.batch_norm.default
    value, first = node.meta["val"], node.all_input_nodes[0].meta["val"]
    return is_pointwise and isinstance(first, torch.Tensor) and value.shape == first.shape


def _live(program: Program, layers: Container[str]) -> Iterator[tuple[frozenset[Node], str]]:
    """The values in memory while each op runs, and its name if it is one of `layers`; none that others include."""
    homes, nodes = _homes(program), program.nodes
    results = {homes[node] for node in program.results if node in homes}
    born: dict[Node, int] = {}
    last: dict[Node, int] = {}
    for number, node in enumerate(nodes):
        for value in (node, *node.all_input_nodes):
            if value in homes:
                born.setdefault(homes[value], number)
                last[homes[value]] = number
    roots = [root for root in born if root not in results]
    moments = [
        (frozenset(root for root in roots if born[root] <= n <= last[root]), node.name if node.name in layers else "")
        for n, node in enumerate(nodes)
    ]
    plain = {live for live, name in moments if not name}
    for live, name in dict.fromkeys(moments):
        if name or (live and not any(live < other for other in plain)):
            yield live, name
