"""Dependency groups: the units of a Program that can be removed, what goes with each, and why the rest must stay."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from torch.fx import Node

from ...errors import InvalidInput
from ...printer import op_name
from ...program import Program
from ..match import is_constant
from .components import Components, connect
from .index_maps import state_ties
from .ties import FACTOR, Axis, AxisKey, Hold, Indices, Ties, key_of

INPUT = "an input of the model"
OUTPUT = "an output of the model, whose shape or meaning would change"
ONLY_ONE = "there is only one"
UNCHOSEN = "another factor of the reshaped dim is what can lose indices"


@dataclass(frozen=True, eq=False)
class Group:
    """Units that touch the same axes: channels, heads or hidden units that go with all that depends on them.

    `units[axis][i]` is the number of the unit that index i of the axis belongs to, -1 for one of another group.
    """

    name: str
    size: int
    units: dict[Axis, Indices]
    graph: nx.Graph

    @cached_property
    def constants(self) -> list[Axis]:
        """The axes of constants, in graph order."""
        return [axis for axis in self.units if is_constant(axis.node)]

    @cached_property
    def layers(self) -> list[Node]:
        """The calls whose results the units are: those with weights of at least two dims."""
        return _layers(self.units)

    @cached_property
    def width(self) -> int:
        """How many indices a unit has in the axis of the layer that it is named after."""
        numbers = self.units[self.constants[0]]
        return max(1, int((numbers >= 0).sum()) // self.size)

    def indices(self, axis: Axis, units: Sequence[int]) -> Indices:
        """The indices of an axis that belong to some units."""
        return np.flatnonzero(np.isin(self.units[axis], np.asarray(units, dtype=np.int64)))

    def details(self) -> str:
        """The chain of dependencies, one axis a line, each under the axis that it depends on."""
        head = f"group {self.name}: {self.size} units"
        depth = {self.constants[0]: 0}
        lines = [f"{head}\n  {self._line(self.constants[0])}"]
        for parent, child in nx.dfs_edges(self.graph.subgraph(self.units), self.constants[0]):
            depth[child] = depth[parent] + 1
            lines.append(f"  {'  ' * depth[child]}{self._line(child, self.graph.edges[parent, child]['node'])}")
        return "\n".join(lines)

    def _line(self, axis: Axis, node: Node | None = None) -> str:
        numbers = self.units[axis]
        text = f"{axis}: {int((numbers >= 0).sum())} of {len(numbers)} indices"
        return text if node is None else f"{text}, by {_place(node)}"


@dataclass(frozen=True)
class Blocked:
    """Axes of constants that must stay whole: `chain` leads from the first to what stops it, for `reason`.

    `layers` are the calls whose results stay whole with them.
    """

    axes: tuple[Axis, ...]
    chain: tuple[Axis, ...]
    node: Node
    reason: str
    layers: tuple[Node, ...] = ()

    @property
    def why(self) -> str:
        """What stops it: the node with its line of the model, and the reason."""
        return f"{_place(self.node)}: {self.reason}"

    def details(self) -> str:
        """What stays, what stops it, and how they depend on each other."""
        steps = "".join(f"\n  {axis}" for axis in self.chain)
        return f"{self.axes[0]} stays whole: {self.why}{steps}"


@dataclass(frozen=True)
class Groups:
    """What of a Program can be removed and what cannot.

    `sizes` are how many indices each axis has, `contracted` the pairs of axes that products are summed up over, `graph`
    has an edge between axes that depend on each other.
    """

    removable: tuple[Group, ...]
    blocked: tuple[Blocked, ...]
    sizes: dict[Axis, int]
    contracted: tuple[tuple[Axis, Axis], ...]
    graph: nx.Graph

    def after(self, gone: Mapping[AxisKey, Indices], program: Program) -> Groups:
        """The same groups in `program`, which is this one without the indices `gone`; nodes are known by their names.

        Groups are found once: which factor of a reshaped dim loses indices must not change from step to step. Raises
        InvalidInput when a node is missing.
        """
        nodes = {node.name: node for node in program.nodes}
        missing = sorted({axis.node.name for axis in self.sizes} - set(nodes))
        if missing:
            raise InvalidInput(
                f"a recovered program must have the nodes of the pruned one, but %{missing[0]} is missing"
            )
        moved = {axis: Axis(nodes[axis.node.name], axis.dim, axis.part) for axis in self.sizes}
        left = {axis: np.setdiff1d(np.arange(n), gone.get(key_of(axis), ())) for axis, n in self.sizes.items()}
        graph = nx.relabel_nodes(self.graph, moved)
        groups = []
        for group in self.removable:
            units = {moved[axis]: numbers[left[axis]] for axis, numbers in group.units.items()}
            found = np.unique(np.concatenate(list(units.values())))
            found = found[found >= 0]
            renumbered = np.full(group.size + 1, -1, dtype=np.int64)  # the last one is for -1
            renumbered[found] = np.arange(len(found))
            units = {axis: renumbered[numbers] for axis, numbers in units.items()}
            groups.append(Group(group.name, len(found), units, graph))
        sizes = {moved[axis]: len(indices) for axis, indices in left.items()}
        contracted = tuple((moved[first], moved[second]) for first, second in self.contracted)
        return Groups(tuple(groups), self.blocked, sizes, contracted, graph)

    def details(self) -> str:
        """Everything, as text."""
        return "\n".join([*(x.details() for x in self.removable), *(x.details() for x in self.blocked)]) + "\n"


def find_groups(program: Program) -> Groups:
    """The dependency groups of a Program, from the index maps of its ops."""
    ties = Ties(program.output_node)
    _collect(program, ties)
    components = connect(ties)
    ties.holds += [
        Hold(axis, split.node, UNCHOSEN)
        for split, chosen in components.choices
        for axis in split.factors
        if axis is not chosen
    ]
    graph = nx.Graph()
    graph.add_nodes_from(ties.sizes)
    for tie in (*ties.ties, *components.links):
        graph.add_edge(tie.first, tie.second, node=tie.node)
    for split, chosen in components.choices:
        if chosen is None:  # the way to what holds its factors
            graph.add_edges_from(((split.axis, factor) for factor in split.factors), node=split.node)
    removable = tuple(_removable(components, graph))
    return Groups(removable, tuple(_blocked(ties, components, graph)), ties.sizes, tuple(ties.contracted), graph)


def _collect(program: Program, ties: Ties) -> None:
    known: dict[str, Node] = {}
    for node in program.nodes:
        ties.node = node
        if node.op == "output":
            break
        for axis in ties.axes(node):
            if node.op == "placeholder":
                ties.hold(axis, INPUT)
            elif ties.sizes[axis] == 1:
                ties.hold(axis, ONLY_ONE)
        if node.op == "get_attr":
            first = known.setdefault(str(node.target), node)
            if first is not node:
                for own, other in zip(ties.axes(node), ties.axes(first), strict=True):
                    ties.same(other, own)
        state_ties(ties, node)
    ties.node = program.output_node
    for node in program.results:
        ties.hold_value(node, OUTPUT)


def _removable(components: Components, graph: nx.Graph) -> Iterator[Group]:
    """Units of free components, those with the same axes together."""
    members: dict[int, dict[Axis, Indices]] = {}
    for axis in components.sizes:
        labels = components.labels_of(axis)
        places = np.argsort(labels, kind="stable")
        places = places[components.free[labels[places]]]
        if not len(places):
            continue
        found, starts = np.unique(labels[places], return_index=True)
        for label, indices in zip(found.tolist(), np.split(places, starts[1:]), strict=True):
            members.setdefault(label, {})[axis] = indices
    together: dict[tuple[tuple[Axis, int], ...], list[dict[Axis, Indices]]] = {}
    for unit in members.values():
        if any(_is_weight(axis.node) for axis in unit) and any(not is_constant(axis.node) for axis in unit):
            together.setdefault(tuple((axis, len(indices)) for axis, indices in unit.items()), []).append(unit)
    names: dict[str, int] = {}
    for key, units in together.items():
        if len(units) == 1:
            continue  # which must stay
        units.sort(key=lambda unit: int(next(iter(unit.values()))[0]))
        numbers = {axis: np.full(components.sizes[axis], -1, dtype=np.int64) for axis, _ in key}
        for number, unit in enumerate(units):
            for axis, indices in unit.items():
                numbers[axis][indices] = number
        group = Group("", len(units), numbers, graph)
        name = group.layers[0].name if group.layers else group.constants[0].node.name
        names[name] = names.get(name, 0) + 1
        unique = name if names[name] == 1 else f"{name}.{names[name]}"
        yield Group(unique, len(units), numbers, graph)


def _blocked(ties: Ties, components: Components, graph: nx.Graph) -> Iterator[Blocked]:
    """For each held component that has weights: the axes, and the shortest way to what holds it."""
    holds: dict[Axis, Hold] = {}
    for hold in ties.holds:
        holds.setdefault(hold.axis, hold)
    done: set[Axis] = set()
    for axis in ties.sizes:
        is_layer = _is_weight(axis.node) and axis.node.meta["val"].dim() > 1
        if not is_layer or axis in done or axis in holds or components.free[components.labels_of(axis)].any():
            continue
        reached = nx.node_connected_component(graph, axis)
        mine = (axis, *(a for a in ties.sizes if a in reached and a is not axis and is_constant(a.node)))
        done.update(mine)
        _, ways = nx.single_source_dijkstra(graph.subgraph(reached), axis)
        stops = sorted(
            (a for a in reached if a in holds), key=lambda a: (holds[a].reason in (UNCHOSEN, ONLY_ONE), len(ways[a]))
        )
        if stops:
            stop = holds[stops[0]]
            layers = tuple(_layers([a for a in ties.sizes if a in reached]))
            yield Blocked(mine, tuple(ways[stops[0]]), stop.node, stop.reason, layers)


def _is_weight(node: Node) -> bool:
    """Whether it is a constant of floats: tables of numbers are not what units are made of."""
    return is_constant(node) and bool(node.meta["val"].is_floating_point())


def _layers(axes: Collection[Axis]) -> list[Node]:
    """The calls that read weights of at least two dims among `axes` and whose own results are there, too."""
    weights = {axis.node for axis in axes if is_constant(axis.node) and axis.node.meta["val"].dim() > 1}
    found: dict[Node, None] = {}
    for axis in axes:
        if axis.part != FACTOR and any(x in weights for x in axis.node.all_input_nodes):
            found[axis.node] = None
    return list(found)


def _place(node: Node) -> str:
    op = op_name(node.target) if node.op == "call_function" else node.op
    source = node.meta.get("source", "")
    return f"%{node.name} ({op}{f', {source}' if source else ''})"
