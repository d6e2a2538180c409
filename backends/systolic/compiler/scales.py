"""What the integers of a value stand for: the ops that make it or read it say so."""

from __future__ import annotations

from torch.fx import Node

from ....arguments import arguments
from ....ops import fxpress
from .selection import MOVES

_READ_AS = {"x": ("x_scale", "x_zero"), "a": ("a_scale", "a_zero"), "b": ("b_scale", "b_zero")}
_KEEPS = (fxpress.quantized_max_pool.default, *MOVES)


def scale_of(node: Node) -> tuple[float, int]:
    """Scale and zero point of an int8 value; (1.0, 0) when no op says."""
    return _made(node) or _read(node) or (1.0, 0)


def _made(node: Node) -> tuple[float, int] | None:
    """As the op that makes the value has it."""
    while node.op == "call_function" and node.target in _KEEPS and node.all_input_nodes:
        node = node.all_input_nodes[0]
    if not str(node.target).startswith("fxpress."):
        return None
    values = arguments(node)
    for scale, zero in (("y_scale", "y_zero"), ("scale", "zero_point")):
        if scale in values and zero in values:
            return float(values[scale]), int(values[zero])
    return None


def _read(node: Node) -> tuple[float, int] | None:
    """As the first op that reads it has it."""
    for user in node.users:
        if user.op == "call_function" and user.target in _KEEPS:
            found = _read(user)
        elif not str(user.target).startswith("fxpress."):
            found = None
        else:
            values = arguments(user)
            names = [names for name, names in _READ_AS.items() if values.get(name) is node]
            found = next(((float(values[s]), int(values[z])) for s, z in names if s in values and z in values), None)
        if found is not None:
            return found
    return None
