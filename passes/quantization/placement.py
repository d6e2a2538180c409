"""Which values become integers: a minimum cut between int8 and float32 over the whole graph.

Every value is int8 or float32 where it is made. Layers take integers in any case; other ops follow what is cheapest in
bytes moved, plus a charge for every rounding, so that nothing is quantised only to be dequantised, and a residual
stream that layer norms read stays float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any

import networkx as nx
from torch.fx import Node

from ...program import Program
from ...target import Target
from ..match import is_constant
from .integer_ops import IntegerOp, has_table, operands_of, values_of, why_float
from .integer_targets import integer_ops
from .scheme import QuantConfig
from .scopes import Scope, select

INT8, FLOAT32 = 1, 4  # bytes of an element
ROUNDING = 4
"""What it costs to round an element to int8, in bytes moved: accuracy, which bytes do not show."""
QUANTIZE = FLOAT32 + INT8 + ROUNDING
DEQUANTIZE = INT8 + FLOAT32 + ROUNDING


@dataclass
class Placement:
    """Where integers are.

    `integer` are the nodes whose result is int8, `layers` those that compute with integers, whatever their result, in
    order; `quantized` the float32 values that are needed as int8 too. Each of `scale_sets` shares one scale.
    """

    integer: set[Node] = field(default_factory=set)
    layers: list[Node] = field(default_factory=list)
    tables: list[Node] = field(default_factory=list)
    quantized: set[Node] = field(default_factory=set)
    scale_sets: list[set[Node]] = field(default_factory=list)
    left: dict[Node, str] = field(default_factory=dict)


def place(
    program: Program,
    target: Target,
    config: QuantConfig,
    *,
    ignore: Sequence[Scope] = (),
    only: Sequence[Scope] = (),
    refused: Mapping[str, str] | None = None,
) -> Placement:
    """Decide where integers are; `refused` are reasons, by node name, for which layers must stay float32.

    Raises InvalidInput when a scope of `ignore` or `only` matches nothing.
    """
    table = integer_ops(target)
    nodes = [node for node in program.nodes if node.op == "call_function" and node.target in table]
    ignored = select(nodes, ignore, "ignore") if ignore else set()
    placement = Placement()
    kept = select(nodes, only, "only") if only else None
    ops: dict[Node, IntegerOp] = {}
    for node in nodes:
        op = table[node.target]
        reason = _refusal(node, op, config, ignored, kept, refused or {})
        if reason is None:
            ops[node] = op
        elif op.role not in ("move", "table"):
            placement.left[node] = reason
    placement.tables = [node for node, op in ops.items() if op.role == "embedding"]
    ops = {node: op for node, op in ops.items() if op.role != "embedding"}
    placement.layers = [node for node, op in ops.items() if op.always_integer]
    if placement.layers:
        placement.integer = _cut(program, ops)
    placement.quantized = {
        x
        for node, op in ops.items()
        for x in (operands_of(node, op) if op.always_integer else [])
        if x not in placement.integer
    } | {x for node in placement.integer for x in _integer_operands(node, ops[node]) if x not in placement.integer}
    placement.scale_sets = _scale_sets(program, placement, ops)
    return placement


def _refusal(
    node: Node,
    op: IntegerOp,
    config: QuantConfig,
    ignored: set[Node],
    kept: set[Node] | None,
    refused: Mapping[str, str],
) -> str | None:
    """Why a node is out; None when it is not."""
    if node in ignored:
        return "named in ignore"
    if kept is not None and node not in kept and (op.always_integer or op.role == "embedding"):
        return "not named in only"
    if node.name in refused:
        return refused[node.name]
    if op.role == "matmul" and not config.matmuls:
        return "products of computed values are not asked for (matmuls)"
    if op.role == "embedding":
        table = values_of(node)["weight"]
        if not config.embeddings:
            return "embeddings are not asked for"
        if is_constant(table) and prod(table.meta["val"].shape) < config.smallest_table:
            return f"its table has fewer than {config.smallest_table} elements"
    return why_float(node, op)


def _integer_operands(node: Node, op: IntegerOp) -> list[Node]:
    """The operands that must be int8 where the node's result is."""
    residual = values_of(node).get("residual") if op.role == "layer" else None
    return operands_of(node, op) + ([residual] if residual is not None else [])


def _cut(program: Program, ops: Mapping[Node, IntegerOp]) -> set[Node]:
    """The nodes whose result is int8, by the cheapest cut; float32 where it is no worse."""
    graph = nx.DiGraph()
    graph.add_nodes_from(("int8", "float32"))

    def charge(here: Any, there: Any, cost: float) -> None:
        """Make it cost that much that `here` is int8 and `there` float32."""
        if here != there and cost:
            known = graph[there][here]["capacity"] if graph.has_edge(there, here) else 0
            graph.add_edge(there, here, capacity=known + cost)

    wants_int8: dict[Node, list[Any]] = defaultdict(list)
    wants_float: dict[Node, list[Any]] = defaultdict(list)
    for node in program.nodes:
        op = ops.get(node)
        inputs = node.all_input_nodes
        if op is None:
            for x in inputs:
                wants_float[x].append("float32")
            continue
        integer, floating = _unary(node, op)
        charge(node, "float32", integer)
        charge("int8", node, floating)
        operands = operands_of(node, op)
        for x in _integer_operands(node, op):
            if op.always_integer and x in operands:
                wants_int8[x].append("int8")
            else:
                wants_int8[x].append(node)
                wants_float[x].append(node)
    for x in {*wants_int8, *wants_float}:
        if is_constant(x):
            continue
        size = inf if isinstance(x.meta["val"], list | tuple) else elements(x)
        made = x if x in ops else "float32"
        for place in wants_int8[x]:
            charge(place, (x, "int8"), inf)
        for place in wants_float[x]:
            charge((x, "float32"), place, inf)
        if wants_int8[x]:
            charge((x, "int8"), made, QUANTIZE * size)
        if wants_float[x]:
            charge(made, (x, "float32"), DEQUANTIZE * size)
    _, (_, integers) = nx.minimum_cut(graph, "float32", "int8")  # what may be on either side is on the source's
    return {node for node in ops if node in integers}


def _unary(node: Node, op: IntegerOp) -> tuple[float, float]:
    """What it costs that a node's result is int8, and that it is float32, conversions apart."""
    size = elements(node)
    if op.role == "move" and len(operands_of(node, op)) == 1:
        return 0, 0  # a view
    followers = _integer_operands(node, op)
    if op.always_integer:
        followers = followers[len(op.operands) :]
    read = sum(map(elements, followers))
    rounding = 0 if op.keeps_scale else ROUNDING
    table = 2 * INT8 if op.role == "layer" and has_table(node) else 0
    return INT8 * read + (INT8 + rounding + table) * size, FLOAT32 * (read + size)


def elements(node: Node) -> int:
    """How many elements a value has; a size that varies counts as in the example."""
    value = node.meta["val"]
    tensors = value if isinstance(value, list | tuple) else [value]
    sizes = [[n if isinstance(n, int) else n.node.hint or 1 for n in tensor.shape] for tensor in tensors]
    return sum(int(prod(each)) for each in sizes)


def _scale_sets(program: Program, placement: Placement, ops: Mapping[Node, IntegerOp]) -> list[set[Node]]:
    """The int8 values, grouped by common scale, in a stable order."""
    ties = nx.Graph()
    ties.add_nodes_from(node for node in program.nodes if node in placement.quantized or node in placement.integer)
    for node in placement.integer:
        if ops[node].keeps_scale:
            ties.add_edges_from((node, x) for x in operands_of(node, ops[node]))
    return [set(part) for part in nx.connected_components(ties)]


__all__ = ["Placement", "elements", "place"]
