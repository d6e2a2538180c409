"""op(constants)  ->  constant"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter

MAX_INTERMEDIATE = 1 << 30  # bytes: no larger value is computed on the way

Sources = dict[Node, None]  # the constants that a value depends on, in order of first use


@dataclass(frozen=True)
class FoldConstants(Pass):
    """op(constants)  ->  constant, where that stores no more than it replaces (or `limit` bytes)

    Whole expressions are folded at their last node, so that a small result of large intermediates folds, and a large
    result (a broadcast) is backed off from to what it is computed from. Reassociating, since a folded constant is dense
    and PyTorch may take another algorithm for an operand of other strides.
    """

    name: ClassVar[str] = "fold-constants"
    accuracy: ClassVar[Accuracy] = "reassociating"
    limit: int = 64 * 1024

    def run(self, program: Program, rw: Rewriter) -> None:
        sources = _sources(program)
        gone: set[Node] = set()
        fold: list[Node] = []
        for node in reversed(program.nodes):
            if node.op != "call_function" or node not in sources:
                continue
            if node.users and all(user in gone for user in node.users):
                gone.add(node)
            elif self._pays(node, sources[node]):
                gone.add(node)
                fold.append(node)
        values: dict[Node, Any] = {}
        for node in reversed(fold):
            if not rw.has_fuel():
                return
            name = next((f"{source.target}_folded" for source in sources[node]), node.name)
            constant = rw.constant(name, _evaluate(program, node, values).contiguous())
            rw.replace(node, constant)
            rw.burn()

    def _pays(self, node: Node, sources: Sources) -> bool:
        value = node.meta["val"]
        replaced = sum(_bytes(source) for source in sources)
        return isinstance(value, torch.Tensor) and _bytes(node) <= max(self.limit, replaced)


def _sources(program: Program) -> dict[Node, Sources]:
    """For every node that depends on nothing but constants: which."""
    sources: dict[Node, Sources] = {}
    for node in program.nodes:
        if node.op == "get_attr":
            sources[node] = {node: None}
        elif node.op == "call_function" and _is_computable(node):
            if all(operand in sources for operand in node.all_input_nodes):
                sources[node] = {each: None for operand in node.all_input_nodes for each in sources[operand]}
    return sources


def _is_computable(node: Node) -> bool:
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    values = node.meta["val"]
    values = values if isinstance(values, tuple | list) else (values,)
    return all(
        isinstance(value, torch.Tensor)
        and all(isinstance(size, int) for size in value.shape)
        and value.numel() * value.element_size() <= MAX_INTERMEDIATE
        for value in values
    )


def _bytes(node: Node) -> int:
    value = node.meta["val"]
    return int(value.numel() * value.element_size())


def _evaluate(program: Program, node: Node, values: dict[Node, Any]) -> Any:
    """The value of a node of constants; `values` remembers those of its operands."""
    if node not in values:
        if node.op == "get_attr":
            values[node] = program.constant(node)
        else:
            args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: _evaluate(program, n, values))
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    return values[node]
