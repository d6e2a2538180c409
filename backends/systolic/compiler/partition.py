"""What runs where: the nodes of a program as an alternating list of stages for the host and for the array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from ....arguments import arguments
from ....errors import Unsupported
from ....printer import op_name
from ....program import Program
from .selection import LAYERS, MOVES

CONFIG = 'fxpress.quantize(model, config="int8-hardware", ...)'


@dataclass(frozen=True)
class Part:
    """Nodes of one stage in order. `inputs` come from other stages, `outputs` go to others or are results."""

    on_array: bool
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]


def why_host(node: Node) -> str | None:
    """Why the array cannot run a node at all; None when it may."""
    if node.target not in LAYERS and node.target not in MOVES:
        return f"{op_name(node.target)} is no op of the array"
    values = node.meta["val"]
    for value in values if isinstance(values, list | tuple) else [values]:
        if not isinstance(value, torch.Tensor):
            return "its result is no tensor"
        if node.target in MOVES and value.dtype != torch.int8:
            return f"it moves {str(value.dtype).removeprefix('torch.')}, not int8"
        if not all(isinstance(size, int) and size > 0 for size in value.shape):
            return "its sizes vary or are zero"
    return None


def check_quantized(program: Program, refused: Mapping[str, str]) -> None:
    """Raise Unsupported for a program that has nothing for the array, or requantises with floats.

    `refused` are the layers that the array does not take, by name, with the reasons.
    """
    calls = [node for node in program.nodes if node.op == "call_function"]
    layers = [node for node in calls if node.target in LAYERS and node.name not in refused]
    if not layers and refused:
        lines = "\n".join(f"  %{name}: {reason}" for name, reason in refused.items())
        raise Unsupported(f"at least one layer must fit the systolic array, but none does:\n{lines}")
    if not layers:
        raise Unsupported(
            f"a program for the systolic array must compute with 8-bit integers, but none of its {len(calls)} ops "
            f"does; quantise it with {CONFIG}, or compile it with target='cpu' where that finds nothing to quantise"
        )
    wrong = [node for node in layers if "mode" in (values := arguments(node)) and values["mode"] != "I"]
    if wrong:
        lines = "\n".join(f"  %{node.name}: {op_name(node.target)}{_at(node)}" for node in wrong[:10])
        raise Unsupported(
            f"ops for the systolic array must requantise in fixed point (mode 'I'), not in mode 'F'; quantise with "
            f"{CONFIG}:\n{lines}"
        )


def _at(node: Node) -> str:
    return f" at {node.meta['source']}" if node.meta.get("source") else ""


def partition(program: Program, refused: Mapping[str, str]) -> tuple[list[Part], dict[str, str]]:
    """Cut the program into parts, few of them, and say by name why nodes are on the host.

    `refused` are reasons, by name, for nodes that must be there.
    """
    calls = [node for node in program.nodes if node.op == "call_function"]
    reasons: dict[str, str] = {}
    level = {node: 0 for node in program.nodes if node.op in ("placeholder", "get_attr")}
    results = set(program.results)
    constants = [node for node in program.nodes if node.op == "get_attr" and node in results]
    members: dict[int, list[Node]] = {0: constants} if constants else {}
    for node in calls:
        before = max((level[x] for x in node.all_input_nodes), default=0)
        reason = refused.get(node.name) or why_host(node)
        if reason is None and node.target in MOVES and before % 2 == 0:
            reason = "what it moves is on the host"
        if reason is not None:
            reasons[node.name] = reason
        level[node] = before + (before % 2 != (reason is None))
        members.setdefault(level[node], []).append(node)
    return [_part(bool(at % 2), members[at], results) for at in sorted(members)], reasons


def _part(on_array: bool, nodes: list[Node], results: set[Node]) -> Part:
    inside = set(nodes)
    operands = (x for node in nodes for x in node.all_input_nodes)
    inputs = dict.fromkeys(x for x in operands if x.op != "get_attr" and x not in inside)
    outputs = [node for node in nodes if node in results or any(user not in inside for user in node.users)]
    return Part(on_array, tuple(nodes), tuple(inputs), tuple(outputs))
