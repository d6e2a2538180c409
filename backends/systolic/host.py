"""A compiled Program's host parts as one Program for the CPU, in which each array part is one call."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Graph, GraphModule, Interpreter, Node

from ...errors import InternalError
from ...program import Program, set_constant
from .artifact import RUN
from .compiler import ArrayStage, CompiledProgram, HostStage
from .simulator.functional import run

_LIBRARY: Any = torch.library.Library(RUN.split("::")[0], "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(f"{RUN.split('::')[1]}(int program, Tensor[] inputs) -> Tensor[]")
run_program: Any = torch.ops.fxpress_systolic.run.default
"""Stands in the Program for a run of one of the artifact's programs; the runtime gives it meaning."""


def stitch(program: Program, compiled: CompiledProgram) -> Program:
    """One Program out of the stages that `program` was compiled to."""
    graph, module = Graph(), torch.nn.Module()
    values: dict[str, Node] = {}
    for placeholder in program.placeholders:
        values[placeholder.name] = graph.node_copy(placeholder)
    arrays = 0
    for stage in compiled.stages:
        if isinstance(stage, HostStage):
            _add_host(stage, graph, module, values)
        else:
            _add_array(stage, arrays, program, graph, values)
            arrays += 1
    output = graph.output(tuple(values[name] for name in compiled.outputs))
    output.meta = dict(program.output_node.meta)
    made = GraphModule(module, graph)
    return Program(made, program.signature, program.outputs, program.example_inputs, program.history, program.facts)


def _add_host(stage: HostStage, graph: Graph, module: torch.nn.Module, values: dict[str, Node]) -> None:
    inside: dict[Node, Node] = dict(
        zip(stage.program.placeholders, (values[name] for name in stage.inputs), strict=True)
    )
    for node in stage.program.nodes:
        if node.op == "get_attr":
            name = f"constant_{len(module._buffers)}"
            set_constant(module, name, stage.program.constant(node))
            inside[node] = graph.create_node("get_attr", name, name=name)
            inside[node].meta = dict(node.meta)
        elif node.op == "call_function":
            inside[node] = graph.node_copy(node, inside.__getitem__)
    values |= zip(stage.outputs, (inside[node] for node in stage.program.results), strict=True)


def _add_array(stage: ArrayStage, index: int, program: Program, graph: Graph, values: dict[str, Node]) -> None:
    operands = [values[name] for name in stage.inputs]
    call = graph.create_node("call_function", run_program, (index, operands), name=f"array_{index}")
    layouts = {value.name: value.layout for value in stage.program.outputs}
    with program.fake_mode:
        fakes = [torch.empty(layouts[name].shape, dtype=getattr(torch, layouts[name].item)) for name in stage.outputs]
    call.meta["val"] = fakes
    for position, (name, fake) in enumerate(zip(stage.outputs, fakes, strict=True)):
        values[name] = graph.create_node("call_function", operator.getitem, (call, position))
        values[name].meta["val"] = fake


def check_crossings(program: Program, compiled: CompiledProgram, inputs: Sequence[torch.Tensor]) -> int:
    """Run every array part on what PyTorch computes for `inputs`; return how many int8 values were compared.

    Raises InternalError where an int8 value that the simulator writes differs from that of PyTorch.
    """
    stages = [stage for stage in compiled.stages if isinstance(stage, ArrayStage)]
    wanted = {name for stage in stages for name in (*stage.inputs, *stage.outputs)}
    recorder = _Recorder(program.graph_module, wanted)
    with torch.no_grad():
        recorder.run(*inputs)
    compared = 0
    for stage in stages:
        if any(name not in recorder.found for name in stage.inputs):
            continue  # made by a host part from other integers, so there is nothing to compare with
        found = run(stage.program, {name: recorder.found[name] for name in stage.inputs})
        for name in stage.outputs:
            if name in recorder.found:
                _compare(name, found[name], recorder.found[name], program)
                compared += found[name].size
    return compared


def _compare(name: str, found: Any, expected: Any, program: Program) -> None:
    wrong = np.argwhere(found != expected)
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        source = next((str(node.meta.get("source", "")) for node in program.nodes if node.name == name), "")
        raise InternalError(
            f"%{name} ({source}) must be what PyTorch computes, but {len(wrong)} of {found.size} integers differ: "
            f"the first at {list(at)} is {found[at]}, not {expected[at]}; please report this with the model"
        )


class _Recorder(Interpreter):
    """Keeps the values of some nodes as arrays."""

    def __init__(self, module: GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self._names = names
        self.found: Mapping[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names and isinstance(value, torch.Tensor):
            self.found = {**self.found, n.name: value.contiguous().numpy()}
        return value
