"""Layout assignment as a minimum cut: exact for two orders a value, with transpositions shared between consumers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, prod
from typing import TypeAlias

import networkx as nx
from torch.fx import Node

from ...program import Program
from .order import keeps_memory, permutation, shape_of, to_channels_first, to_channels_last
from .roles import Role, role_of

KERNEL_COST = 2.0
"""A kernel in the traced order transposes its operands and its result: that many times what a transposition costs."""
COPY_COST = 2.0
"""A transposition reads and writes every byte of the value."""
NODE_COST = 1.0
"""Even a permute that moves nothing is a node: among equal assignments the one with fewer permutes is best."""

Place: TypeAlias = Node | bool
"""Where a value's order is decided: at a node, or fixed (True is channels-last)."""


@dataclass
class Problem:
    """What each choice costs. A node's choice is False for the traced order, True for channels-last.

    `choices` are the nodes that may be either; `unary[node]` is what each choice costs by itself; `uses[value]` are the
    places whose order the value must have, else it is transposed once for all of them, at `price[value]`.
    """

    roles: dict[Node, Role] = field(default_factory=dict)
    choices: set[Node] = field(default_factory=set)
    fixed_last: set[Node] = field(default_factory=set)
    unary: dict[Node, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    uses: dict[Node, set[Place]] = field(default_factory=lambda: defaultdict(set))

    def place(self, value: Node) -> Place:
        """Where the order of a value is decided."""
        return value if value in self.choices else value in self.fixed_last

    def cost(self, assignment: Mapping[Node, bool]) -> float:
        """What an assignment of all choices costs."""

        def order(place: Place) -> bool:
            return place if isinstance(place, bool) else assignment[place]

        total = sum(self.unary[node][assignment[node]] for node in self.choices)
        for value, places in self.uses.items():
            if any(order(place) != order(self.place(value)) for place in places):
                total += transposition_cost(value)
        return total

    def solve(self) -> dict[Node, bool]:
        """The cheapest assignment; the traced order where it is no worse."""
        if not self.choices:
            return {}
        graph = nx.DiGraph()
        for node in self.choices:
            _limit(graph, node, True, self.unary[node][False])
            _limit(graph, False, node, self.unary[node][True])
        for value, places in self.uses.items():
            here, price = self.place(value), transposition_cost(value)
            if all(isinstance(place, bool) for place in (here, *places)):
                continue
            _limit(graph, here, (value, "last"), price)
            _limit(graph, (value, "first"), here, price)
            for place in places:
                _limit(graph, (value, "last"), place, inf)
                _limit(graph, place, (value, "first"), inf)
        graph.add_nodes_from(("False", "True"))
        _, (first, _) = nx.minimum_cut(graph, "False", "True")
        return {node: node not in first for node in self.choices}


def _limit(graph: nx.DiGraph, source: object, sink: object, capacity: float) -> None:
    """Make it cost `capacity` that `source` is in the traced order and `sink` channels-last."""
    source, sink = (str(end) if isinstance(end, bool) else end for end in (source, sink))
    if capacity == 0 or source == sink:
        return
    known = graph[source][sink]["capacity"] if graph.has_edge(source, sink) else 0
    graph.add_edge(source, sink, capacity=known + capacity)


def transposition_cost(value: Node) -> float:
    """What giving a value the other order costs, in bytes moved."""
    shape = shape_of(value)
    if isinstance(value.meta["val"], tuple | list):
        return inf
    if value.op == "get_attr" or (len(shape) > 2 and keeps_memory(shape, to_channels_last(len(shape)))):
        return NODE_COST
    return NODE_COST + COPY_COST * _bytes(value)


def _bytes(value: Node) -> int:
    sizes = [size if isinstance(size, int) else size.node.hint or 1 for size in shape_of(value)]
    return int(prod(sizes)) * int(value.meta["val"].element_size())


def state_problem(program: Program) -> Problem:
    """The layout problem of a Program: only values that reach a kernel without a fixed order between are choices."""
    problem = Problem()
    for node in program.nodes:
        role = role_of(node)
        if role is not None:
            problem.roles[node] = role
    problem.choices = _near_kernels(problem.roles)
    for node in program.nodes:
        _state_node(problem, node)
    return problem


def _near_kernels(roles: Mapping[Node, Role]) -> set[Node]:
    """The nodes tied, through nodes that follow, to a kernel or to a permute between the two orders.

    Permutes of three dims do not count: theirs go either way, and attention is full of them.
    """
    ties = nx.Graph()
    for node, role in roles.items():
        if role.kind == "absorb":
            continue
        ties.add_node(node)
        if role.kind != "emit":
            ties.add_edges_from(
                (node, x) for x in role.operands
                if x in roles and roles[x].kind != "absorb" and not _is_spread(role, node, x)
            )  # fmt: skip
    ends = {end for node, role in roles.items() for end in _ends(node, role)}
    return {node for part in nx.connected_components(ties) if not ends.isdisjoint(part) for node in part}


def _ends(node: Node, role: Role) -> Iterable[Node]:
    order = permutation(node)
    if role.kind == "kernel":
        return (node,)
    if order is None or len(order) < 4:
        return ()
    if order == to_channels_last(len(order)):
        return role.operands
    return node.users if order == to_channels_first(len(order)) else ()


def _is_spread(role: Role, node: Node, x: Node) -> bool:
    """Whether `x` is broadcast from fewer dims, so that its own order says nothing about `node`'s."""
    return role.kind == "broadcast" and len(shape_of(x)) < len(shape_of(node))


def _state_node(problem: Problem, node: Node) -> None:
    if _state_permute(problem, node):
        return
    role = problem.roles.get(node)
    if role is None or (role.kind != "absorb" and node not in problem.choices):
        _require(problem, node.all_input_nodes)
        return
    _require(problem, (x for x in node.all_input_nodes if x not in role.operands))
    if role.kind == "emit":
        _require(problem, role.operands)
    if role.kind == "kernel":
        moved = (*role.operands, node)
        problem.unary[node][False] += KERNEL_COST * sum(map(transposition_cost, moved))
    if role.kind in ("kernel", "follow", "broadcast"):
        if role.prefers_last:
            problem.unary[node][False] += COPY_COST * _bytes(node)
        for x in role.operands:
            if _is_spread(role, node, x):
                _require(problem, (x,))
                problem.unary[node][True] += transposition_cost(x)
            elif x.op != "get_attr":
                problem.uses[x].add(node)


def _state_permute(problem: Problem, node: Node) -> bool:
    """A permute between the two orders does nothing once its operand has the order that it makes."""
    order = permutation(node)
    if order is None or len(order) < 3:
        return False
    x: Node = node.args[0]
    is_to_last = order == to_channels_last(len(order))
    if order == to_channels_first(len(order)) and not (is_to_last and x in problem.choices):
        problem.uses[x].add(False)
        problem.fixed_last.add(node)
        return True
    if is_to_last:
        problem.uses[x].add(True)
    return is_to_last


def _require(problem: Problem, values: Iterable[Node]) -> None:
    """The values must be in the traced order."""
    for x in values:
        if x.op != "get_attr" and len(shape_of(x)) > 2:
            problem.uses[x].add(False)
