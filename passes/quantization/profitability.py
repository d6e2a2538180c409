"""Keeps integers only where they are faster: a region that is not, conversions at its borders included, is rolled back.

A region is a set of nodes that hand int8 values to each other, or read the same one. Every difference in time between
the quantised Program and the float32 one belongs to a region: that of its own nodes, and that of float32 nodes nearby,
whose kernels convert values for it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
from torch.fx import Node

from ...report.quantities import time_text
from .costs import Costs, computing, pinned_names
from .plan import Plan
from .planning import Choice, Decider
from .scopes import Scope

_log = logging.getLogger("fxpress.quantize")


@dataclass(frozen=True)
class Region:
    """Nodes that are quantised together or not at all, their seconds either way, and those of the conversions."""

    nodes: tuple[str, ...]
    float32: float
    int8: float
    conversions: float

    @property
    def pays(self) -> bool:
        """Whether integers are faster here."""
        return self.int8 + self.conversions < self.float32

    def text(self, how: str) -> str:
        """The numbers, for a report."""
        nodes = f"the {len(self.nodes)} nodes of its region" if len(self.nodes) > 1 else "it"
        parts = (time_text(max(x, 0.0)) for x in (self.int8, self.conversions, self.float32))
        int8, conversions, float32 = parts
        return f"{nodes} would take {int8} in int8 and {conversions} to convert, {float32} in float32 ({how})"


class Profitability(Decider):
    """Leaves regions in float32 that do not pay by what `measure` says of a Plan; regions with `pinned` nodes (scopes)
    stay.

    After a run `first` are the costs of the first Plan, `last` those of the one that remains; `rolled_back` are the
    regions that do not.
    """

    def __init__(self, measure: Callable[[Plan], Costs], pinned: Sequence[Scope] = ()) -> None:
        self._measure = measure
        self._pinned = pinned
        self._choices: dict[str, Choice] = {}
        self.first: Costs | None = None
        self.last: Costs | None = None
        self.rolled_back: list[Region] = []

    def choose(self, plan: Plan) -> Mapping[str, Choice] | None:
        if plan.program.is_dynamic or not plan.config.is_static:
            return None
        self.last = costs = self._measure(plan)
        self.first = self.first or costs
        pinned = pinned_names(plan, self._pinned)
        poor = [r for r in regions(plan, costs) if not r.pays and pinned.isdisjoint(r.nodes)]
        if not poor:
            return None
        self.rolled_back += poor
        for region in poor:
            choice = Choice("float32", f"int8 does not pay: {region.text(costs.how)}")
            self._choices |= dict.fromkeys(region.nodes, choice)
        return self._choices

    def report(self, plan: Plan, costs: Costs) -> None:
        """Note in `plan` what its kernels take, which are its `costs`; log what was rolled back."""
        float32, quantized = costs.total
        spent = f"{time_text(quantized)} as quantised, {time_text(float32)} in float32 ({costs.how})"
        plan.notes.append(f"kernels take {spent}")
        if self.rolled_back:
            count = sum(len(region.nodes) for region in self.rolled_back)
            _log.warning("%d nodes stay in float32, where int8 does not pay; kernels take %s", count, spent)


def regions(plan: Plan, costs: Costs) -> list[Region]:
    """The Plan's regions in graph order."""
    nodes = {node.name: node for node in plan.program.nodes}
    parts = _parts(plan, nodes)
    number = {name: index for index, part in enumerate(parts) for name in part}
    conversions = [0.0] * len(parts)
    near = nx.Graph()
    for node in nodes.values():
        near.add_edges_from((x.name, node.name) for x in node.all_input_nodes if x.op != "get_attr")
    for name in sorted({*costs.float32, *costs.quantized} - set(number)):
        change = costs.quantized.get(name, 0.0) - costs.float32.get(name, 0.0)
        nearest = _nearest(near, name, number) if change else set()
        for index in nearest:
            conversions[index] += change / len(nearest)
    return [
        Region(
            tuple(name for name in nodes if name in part),
            sum(costs.float32.get(name, 0.0) for name in part),
            sum(costs.quantized.get(name, 0.0) for name in part),
            conversions[index],
        )
        for index, part in enumerate(parts)
    ]


def _parts(plan: Plan, nodes: Mapping[str, Node]) -> list[set[str]]:
    inside = computing(plan)
    ties: Any = nx.Graph()
    ties.add_nodes_from(name for name in nodes if name in inside)
    for name in ties.nodes | {name for name in plan.values if name in nodes}:
        readers = [user.name for user in nodes[name].users if user.name in inside]
        if name in plan.values or name in plan.integer:
            group = [name, *readers] if name in plan.integer else readers
            ties.add_edges_from(itertools.pairwise(group))
    return [set(part) for part in nx.connected_components(ties)]


def _nearest(near: Any, name: str, number: Mapping[str, int]) -> set[int]:
    """The regions that are fewest steps away from a node; none when no region is connected with it."""
    if name not in near:
        return set()
    for layer in nx.bfs_layers(near, [name]):
        found = {number[each] for each in layer if each in number}
        if found:
            return found
    return set()
