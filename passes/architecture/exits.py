"""A Program with an early exit as two Programs: up to the exit, and the rest."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ...errors import InvalidInput
from ...program import Program
from ...runtime.signature import Signature
from ...runtime.structure import Structure
from .add_early_exit import FACT


def split_at_exit(program: Program) -> tuple[Program, Program]:
    """What `add-early-exit` made, as a Program that gives (exit, values...) and one from the values to the result.

    Run the second only where the first is not confident. Raises InvalidInput for a Program without an exit.
    """
    if FACT not in program.facts:
        raise InvalidInput("program must have an early exit, which the pass add-early-exit adds, but it has none")
    graph = nx.DiGraph((x, node) for node in program.nodes for x in node.all_input_nodes)
    head, result = program.results
    first = nx.ancestors(graph, head) | {head, *program.placeholders}
    rest = (nx.ancestors(graph, result) | {result}) - first
    crossing = [
        node for node in program.nodes if node in first and node.op != "get_attr" and rest.intersection(node.users)
    ]
    before = _part(program, program.placeholders, [head, *crossing], program.example_inputs, program.signature)
    examples = before.run_flat(*program.example_inputs)[1:]
    arguments = Structure.of(tuple(crossing), lambda x: isinstance(x, Node))[0]
    signature = Signature(tuple(node.name for node in crossing), arguments, Structure.of({}, lambda _: False)[0])
    after = _part(program, crossing, [result], examples, signature)
    after.outputs = program.outputs.children[1]
    return before, after


def _part(
    program: Program, inputs: Sequence[Node], outputs: Sequence[Node], examples: Sequence[Tensor], signature: Signature
) -> Program:
    """The Program that computes `outputs` from `inputs`; its result is a tuple of them."""
    graph, module = Graph(), torch.nn.Module()
    copies: dict[Node, Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    needed: set[Node] = set()
    left = list(outputs)
    while left:
        node = left.pop()
        if node not in needed and node not in copies:
            needed.add(node)
            left += node.all_input_nodes
    for node in program.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, lambda x: copies[x])
            if node.op == "get_attr":
                module.register_buffer(str(node.target), program.constant(node))
    graph.output(tuple(copies[node] for node in outputs))
    results = Structure.of(tuple(outputs), lambda x: isinstance(x, Node))[0]
    return Program(GraphModule(module, graph), signature, results, examples)
