"""A `main` that runs the generated function on the Program's example inputs and compares every number."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Interpreter, Node

from ....program import Program
from .c_text import literal
from .signature import Argument

MAIN = """/* Written by fxpress: runs {name}_run on an example and compares with what the Program computes. */
#include <stdio.h>
#include "{name}.h"

{arrays}
int main(void) {{
    {name}_run({names});
{loops}
    printf("{name}: equal\\n");
    return 0;
}}
"""
LOOP = """    for (int i = 0; i < {size}; i++)
        if ({name}[i] != {name}_wanted[i]) {{
            printf("{name}[%d] differs\\n", i);
            return 1;
        }}"""


class _Recorder(Interpreter):
    """Runs a Program and keeps some of its values."""

    def __init__(self, program: Program, wanted: set[Node]) -> None:
        super().__init__(program.graph_module)
        self.values: dict[Node, torch.Tensor] = {}
        self._wanted = wanted

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if n in self._wanted:
            self.values[n] = value
        return value


def values_of(program: Program, nodes: set[Node], inputs: tuple[torch.Tensor, ...]) -> dict[Node, torch.Tensor]:
    """What nodes of a Program compute for some inputs."""
    recorder = _Recorder(program, nodes)
    with torch.no_grad():
        recorder.run(*inputs)
    return recorder.values


def self_check(name: str, program: Program, inputs: list[Argument], outputs: list[Argument]) -> str:
    """The text of `<name>_check.c`; its `main` returns 0 when all numbers are equal."""
    nodes = {argument.node for argument in (*inputs, *outputs)}
    values = values_of(program, nodes, program.example_inputs)
    arrays = [_array("const ", x, x.name, values[x.node]) for x in inputs]
    for y in outputs:
        arrays += [f"static {y.kind} {y.name}[{y.size}];", _array("const ", y, f"{y.name}_wanted", values[y.node])]
    return MAIN.format(
        name=name,
        arrays="\n".join(arrays),
        names=", ".join(argument.name for argument in (*inputs, *outputs)),
        loops="\n".join(LOOP.format(name=y.name, size=y.size) for y in outputs),
    )


def _array(qualifier: str, argument: Argument, name: str, values: torch.Tensor) -> str:
    numbers = values.flatten().tolist()
    texts = [literal(x) if argument.kind == "float" else str(x) for x in numbers]
    rows = ",\n    ".join(", ".join(texts[i : i + 16]) for i in range(0, len(texts), 16))
    return f"static {qualifier}{argument.kind} {name}[{len(texts)}] = {{\n    {rows}\n}};"
