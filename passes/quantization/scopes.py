"""`ignore=` and `only=`: which nodes a user means by a name, an op, a module's path or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import Node

from ...errors import InvalidInput
from ...printer import op_name

MOST_LISTED = 30

Scope = str | re.Pattern[str] | Any
"""A node's name, an op (`aten.add.Tensor`, "fxpress.linear.default", "linear"), the path of a module (with everything
inside it), or a compiled regular expression that is searched in names and paths."""


def module_path(node: Node) -> str:
    """The path of the module that a node was captured in, "" at the top: `encoder.layer.0.attention`."""
    match = re.search(r"\(([\w.]+)\)$", node.meta.get("source", ""))
    return match[1] if match else ""


def matches(scope: Scope, node: Node) -> bool:
    """Whether `scope` means the node. Raises InvalidInput for a scope of another type."""
    path = module_path(node)
    if isinstance(scope, re.Pattern):
        return bool(scope.search(node.name) or scope.search(path))
    if isinstance(scope, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return scope in (node.target, getattr(node.target, "overloadpacket", None))
    if not isinstance(scope, str) or not scope:
        raise InvalidInput(
            f"a scope must be a node's name, an op, a module's path or a compiled regular expression, not {scope!r}"
        )
    op = op_name(node.target)
    names = (node.name, op, op.rpartition(".")[0], ".".join(op.split(".")[1:-1]))
    return scope in names or path == scope or path.startswith(f"{scope}.")


def select(nodes: Iterable[Node], scopes: Sequence[Scope] | Scope, option: str, done: str = "quantised") -> set[Node]:
    """The nodes that any of `scopes` means; `option` is the argument's name in messages, `done` what happens to nodes.

    Raises InvalidInput listing what exists when a scope means none of `nodes`.
    """
    listed = list(scopes) if isinstance(scopes, list | tuple | set | frozenset) else [scopes]
    nodes = list(nodes)
    chosen: set[Node] = set()
    unmatched = []
    for scope in listed:
        found = {node for node in nodes if matches(scope, node)}
        chosen |= found
        if not found:
            unmatched.append(scope)
    if unmatched:
        shown = ", ".join(repr(s.pattern if isinstance(s, re.Pattern) else s) for s in unmatched)
        raise InvalidInput(f"{option} must match something that can be {done}, but {shown} does not; {_known(nodes)}")
    return chosen


def _known(nodes: Sequence[Node]) -> str:
    if not nodes:
        return "this model has no such op"
    ops = sorted({op_name(node.target) for node in nodes})
    lines = [f"  %{node.name}" + (f" in {path}" if (path := module_path(node)) else "") for node in nodes]
    more = [f"  ... and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    return f"there are the ops {', '.join(ops)} and the nodes\n" + "\n".join(lines[:MOST_LISTED] + more)
