"""Which int8 values of a quantised Program share a scale and zero point, read from the ops that write and read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
from torch.fx import Node

from ...errors import InvalidProgram, Unsupported
from ...ops import fxpress
from ...printer import op_name
from ...program import Program
from ..match import arguments
from .integer_ops import CPU, operands_of
from .scheme import QParams
from .surrogates import SURROGATES, quantized_operands, quantized_result


@dataclass(frozen=True)
class Group:
    """Values with one scale and zero point. `fixed` where a table was made for that scale."""

    name: str
    params: QParams
    fixed: bool


def scale_groups(program: Program) -> dict[Node, Group]:
    """The group of every int8 value of `program`.

    Raises Unsupported listing the ops on int8 values that cannot be trained, InvalidProgram where ops disagree.
    """
    moves = {op: form for op, form in CPU.items() if form.role == "move"}
    ties: Any = nx.Graph()
    known: dict[Node, list[QParams]] = {}
    tables: set[Node] = set()
    foreign: list[Node] = []

    def note(value: Any, params: tuple[str, str], values: Mapping[str, Any]) -> None:
        if isinstance(value, Node):
            ties.add_node(value)
            known.setdefault(value, []).append(QParams(values[params[0]], values.get(params[1], 0)))

    for node in program.nodes:
        if node.op != "call_function":
            continue
        if node.target in moves:
            if _is_int8(node):
                ties.add_edges_from((node, x) for x in operands_of(node, moves[node.target]))
        elif node.target is fxpress.lookup.default:
            tables.update((node, arguments(node)["x"]))
            ties.add_nodes_from((node, arguments(node)["x"]))
        elif node.target in SURROGATES:
            values = arguments(node)
            for name, params in quantized_operands(node).items():
                note(values[name], params, values)
            result = quantized_result(node)
            if result is not None:
                note(node, result, values)
            elif node.target is fxpress.quantized_max_pool.default:
                ties.add_edge(node, values["x"])
        elif _is_int8(node) or any(_is_int8(x) and x.op != "get_attr" for x in node.all_input_nodes):
            foreign.append(node)
    if foreign:
        listed = "\n".join(f"- %{node.name}: {op_name(node.target)}" for node in foreign)
        raise Unsupported(f"these ops on int8 values cannot be trained; leave them in float32 with ignore=\n{listed}")
    return _groups(ties, known, tables)


def _groups(ties: Any, known: Mapping[Node, list[QParams]], tables: set[Node]) -> dict[Node, Group]:
    order = {node: index for index, node in enumerate(ties)}
    groups: dict[Node, Group] = {}
    for part in nx.connected_components(ties):
        first = min(part, key=order.__getitem__)
        found = {params for node in part for params in known.get(node, [])}
        if len(found) > 1:
            raise InvalidProgram(f"%{first.name} must have one scale and zero point, not {sorted(map(str, found))}")
        # a value between two tables has no scale: any will do, since it is never changed
        params = found.pop() if found else QParams(1.0, 0)
        group = Group(first.name, params, fixed=not part.isdisjoint(tables))
        groups |= dict.fromkeys(part, group)
    return groups


def _is_int8(node: Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return any(str(getattr(each, "dtype", "")) == "torch.int8" for each in values)
