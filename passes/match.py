"""Small questions that rewrite rules ask of nodes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch.fx import Node

from ..arguments import arguments as arguments  # passes find it here with the other questions
from ..printer import print_type
from ..rewriter import Rewriter


def call_again(node: Node, rw: Rewriter, **changed: Any) -> Node:
    """A new call of the node's op, with some of its arguments changed."""
    values = arguments(node) | changed
    schema = node.target._schema.arguments
    positional = [values[a.name] for a in schema if not a.kwarg_only]
    named = {a.name: values[a.name] for a in schema if a.kwarg_only and values[a.name] != a.default_value}
    return rw.call(node.target, *positional, at=node, **named)


def change_call(node: Node, rw: Rewriter, **changed: Any) -> None:
    """Change some of the node's arguments where it stands; it keeps its name."""
    values = arguments(node) | changed
    schema = node.target._schema.arguments
    positional = [values[a.name] for a in schema if not a.kwarg_only]
    rw.update(node, *positional, **{a.name: values[a.name] for a in schema if a.kwarg_only and a.name in node.kwargs})


def is_call(value: Any, *ops: Any) -> bool:
    """Whether `value` is a node that calls one of `ops`."""
    return isinstance(value, Node) and value.op == "call_function" and value.target in ops


def is_constant(value: Any) -> bool:
    """Whether `value` is a constant's node."""
    return isinstance(value, Node) and value.op == "get_attr"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a Python number (a bool is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shape(node: Node) -> tuple[Any, ...]:
    """The node's shape; sizes are ints or symbols."""
    return tuple(node.meta["val"].shape)


def dtype(node: Node) -> torch.dtype:
    """The node's dtype."""
    value: torch.Tensor = node.meta["val"]
    return value.dtype


def is_static(node: Node) -> bool:
    """Whether every size of the node is a plain number."""
    return all(isinstance(size, int) for size in shape(node))


def same_type(first: Node, second: Node) -> bool:
    """Whether two nodes agree in dtype and shape, so that one may replace the other."""
    return print_type(first.meta["val"]) == print_type(second.meta["val"])  # symbols are compared by name, unguarded


def only_user(node: Node) -> Node | None:
    """The node's user when it has exactly one and that is not the output; else None."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_function" else None


def takes_first_only(node: Node) -> bool:
    """Whether all that is used of a multi-result call is its first result."""
    return all(is_call(user, operator.getitem) and user.args[1] == 0 for user in node.users)


def pair(values: Sequence[int], dims: int) -> list[int]:
    """One number a spatial dim: PyTorch allows a single number for all."""
    return list(values) * dims if len(values) == 1 else list(values)
