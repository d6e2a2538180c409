"""The text of a Program: one node a line, stable across runs, used by golden tests, diffs and dumps."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from .program import Program


def print_program(program: Program) -> str:
    """Print every node as `%name: type = op(arguments)`."""
    lines = []
    for node in program.graph.nodes:
        if node.op == "output":
            lines.append(f"return {', '.join(print_value(x) for x in node.args[0])}")
        else:
            lines.append(f"%{node.name}: {print_type(node.meta.get('val'))} = {_right_side(node)}")
    return "\n".join(lines) + "\n"


def _right_side(node: Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return "constant" if node.target == node.name else f"constant {node.target}"
    arguments = [print_value(x) for x in node.args]
    arguments += [f"{name}={print_value(x)}" for name, x in node.kwargs.items()]
    return f"{op_name(node.target)}({', '.join(arguments)})"


def op_name(target: Any) -> str:
    """The printed name of an op: `aten.conv2d.default`, `fxpress.linear.default`, `getitem`."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}.{target._overloadname}"
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


def print_type(value: Any) -> str:
    """The printed type of a fake value: `float32[1, 4]`; several values in parentheses."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(str(size) for size in value.shape)}]"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(print_type(x) for x in value)})"
    # a size that varies may turn out to be a number when it is computed again
    return "none" if value is None else type(value).__name__.removeprefix("Sym").lower()


def print_value(value: Any) -> str:
    """The printed form of an argument."""
    if isinstance(value, Node):
        return f"%{value.name}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(print_value(x) for x in value)}]"
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value).removeprefix("torch.")
    if isinstance(value, torch.device):
        return str(value)
    return repr(value)
