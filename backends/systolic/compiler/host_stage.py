"""The parts of a program that the host runs, as Programs of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Graph, GraphModule, Node

from ....program import Program
from ....runtime.signature import Signature
from ....runtime.structure import Structure


@dataclass(frozen=True, eq=False)
class HostStage:
    """A Program for the CPU backend; `inputs` name the values of its placeholders, `outputs` those of its results."""

    program: Program
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def host_stage(program: Program, inputs: Sequence[Node], nodes: Sequence[Node], outputs: Sequence[Node]) -> HostStage:
    """A Program of these nodes. Its example inputs are zeros of the right types."""
    graph, module = Graph(), torch.nn.Module()
    copies: dict[Node, Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in nodes:
        for constant in (node, *node.all_input_nodes):
            if constant.op == "get_attr" and constant not in copies:
                module.register_buffer(str(constant.target), program.constant(constant))
                copies[constant] = graph.node_copy(constant)
    for node in nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, lambda x: copies[x])
    graph.output(tuple(copies[node] for node in outputs))
    empty = Structure.of({}, lambda _: False)[0]
    arguments = Structure.of(tuple(inputs), lambda x: isinstance(x, Node))[0]
    results = Structure.of(tuple(outputs), lambda x: isinstance(x, Node))[0]
    names = tuple(node.name for node in inputs)
    examples = [torch.zeros(tuple(node.meta["val"].shape), dtype=node.meta["val"].dtype) for node in inputs]
    part = Program(GraphModule(module, graph), Signature(names, arguments, empty), results, examples)
    return HostStage(part, names, tuple(node.name for node in outputs))
