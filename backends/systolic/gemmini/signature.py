"""The function that generated C offers: its arguments, and the header that declares it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch.fx import Node

from ....arguments import arguments
from ....errors import Unsupported
from ....printer import op_name
from ....program import Program
from .c_text import comment, identifier, literal
from .parameters import Parameters
from .steps import Steps, shape

_KINDS = {torch.int8: "int8_t", torch.float32: "float"}


@dataclass(frozen=True)
class Argument:
    """A pointer to a value of the Program, under a name of C."""

    node: Node
    name: str
    is_input: bool

    @property
    def kind(self) -> str:
        """The type of its elements."""
        return _KINDS[self.node.meta["val"].dtype]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(shape(self.node))

    @property
    def declaration(self) -> str:
        """As a parameter."""
        return f"{'const ' if self.is_input else ''}{self.kind} *{self.name}"


def arguments_of(program: Program, plan: Steps) -> tuple[list[Argument], list[Argument]]:
    """The inputs, in the order of the Program's, and the results. Raises Unsupported for other types."""
    order = program.placeholders
    values = sorted(plan.inputs, key=lambda node: order.index(plan.inputs[node]))
    for node in (*order, *program.results):
        kind = node.meta["val"].dtype
        if kind not in _KINDS:
            raise Unsupported(
                f"%{node.name} must be int8 or float32 for Gemmini, not {str(kind).removeprefix('torch.')}; convert it "
                "outside the model"
            )
    inputs = [Argument(node, identifier(plan.inputs[node].name), True) for node in values]
    results = program.results
    names = ["output"] if len(results) == 1 else [f"output_{i}" for i in range(len(results))]
    taken = {argument.name for argument in inputs}
    return inputs, [
        Argument(node, f"{name}_" if name in taken else name, False) for node, name in zip(results, names, strict=True)
    ]


def header(name: str, plan: Steps, inputs: list[Argument], outputs: list[Argument], parameters: Parameters) -> str:
    """Sizes, scales and the function. A real value is its integer times the scale."""
    guard = f"{name.upper()}_H"
    lines = [f"/* Written by fxpress for Gemmini: {parameters}. Real values are integers * scale. */"]
    lines += [f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", ""]
    for argument in (*inputs, *outputs):
        prefix = f"{name}_{argument.name}".upper()
        lines.append(f"/* {argument.name}: {comment(_described(argument, plan))} */")
        lines.append(f"#define {prefix}_SIZE {argument.size}")
        scale = _scale(argument.node)
        if scale is not None:
            lines.append(f"#define {prefix}_SCALE {literal(scale)}")
    signature = ", ".join(argument.declaration for argument in (*inputs, *outputs))
    return "\n".join([*lines, "", f"void {name}_run({signature});", "", "#endif", ""])


def _described(argument: Argument, plan: Steps) -> str:
    text = f"{argument.kind} {'x'.join(map(str, shape(argument.node))) or 'scalar'}"
    if not argument.is_input or plan.inputs[argument.node] is argument.node:
        return text
    steps = []
    node = argument.node
    while node.op == "call_function":
        steps.append(" ".join([op_name(node.target).split(".")[1], *(str(x) for x in node.args[1:])]))
        (node,) = node.all_input_nodes
    return f"{text}, the model's {node.name} after {', then '.join(reversed(steps))}"


def _scale(node: Node) -> float | None:
    """The scale of an int8 value: that of the op that made it, or of what it was moved from."""
    while node.op == "call_function" and node.meta["val"].dtype == torch.int8:
        v = arguments(node)
        for key in ("y_scale", "scale"):
            if isinstance(v.get(key), float):
                return float(v[key])
        node = node.all_input_nodes[0]
    return None
