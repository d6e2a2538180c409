"""Patterns of calls, for rules that recognise an op from its pieces.

`call(aten.mul.Tensor, "x", call(aten.sigmoid.default, "x"))` matches `x * sigmoid(x)` and binds `x`. A string binds
what stands there; the same string must meet the same value again. Sums and products match in either order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten

COMMUTATIVE = frozenset((aten.add.Tensor, aten.mul.Tensor))
Bindings = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A call of one of `ops` with exactly these positional arguments and, but for `keywords`, no named ones."""

    ops: tuple[Any, ...]
    arguments: tuple[Any, ...]
    keywords: frozenset[tuple[str, Any]] = frozenset()


@dataclass(frozen=True)
class Either:
    """One of several patterns, the first that fits."""

    patterns: tuple[Any, ...]


def call(ops: Any, *arguments: Any, **keywords: Any) -> Call:
    """A Call pattern; `ops` is an op or a tuple of ops."""
    return Call(ops if isinstance(ops, tuple) else (ops,), arguments, frozenset(keywords.items()))


def either(*patterns: Any) -> Either:
    """An Either pattern."""
    return Either(patterns)


def match(pattern: Call | Either, node: Node) -> Bindings | None:
    """What the names in `pattern` stand for at `node`, or None.

    The calls inside must have no users outside of what matched: a rewrite of `node` then leaves none of them behind.
    """
    for bindings, calls in _matches(pattern, node, {}, frozenset()):
        if all(user in calls for inner in calls - {node} for user in inner.users):
            return bindings
    return None


def _matches(
    pattern: Any, value: Any, bindings: Bindings, calls: frozenset[Node]
) -> Iterator[tuple[Bindings, frozenset[Node]]]:
    if isinstance(pattern, str):
        if pattern not in bindings:
            yield bindings | {pattern: value}, calls
        elif _same(bindings[pattern], value):
            yield bindings, calls
    elif isinstance(pattern, Either):
        for each in pattern.patterns:
            yield from _matches(each, value, bindings, calls)
    elif isinstance(pattern, Call):
        yield from _match_call(pattern, value, bindings, calls)
    elif _same(pattern, value):
        yield bindings, calls


def _match_call(
    pattern: Call, node: Any, bindings: Bindings, calls: frozenset[Node]
) -> Iterator[tuple[Bindings, frozenset[Node]]]:
    if not isinstance(node, Node) or node.target not in pattern.ops or dict(node.kwargs) != dict(pattern.keywords):
        return
    orders = [node.args]
    if node.target in COMMUTATIVE and len(node.args) == 2:
        orders.append(node.args[::-1])
    for arguments in orders:
        if len(arguments) == len(pattern.arguments):
            yield from _match_all(pattern.arguments, arguments, bindings, calls | {node})


def _match_all(
    patterns: tuple[Any, ...], values: tuple[Any, ...], bindings: Bindings, calls: frozenset[Node]
) -> Iterator[tuple[Bindings, frozenset[Node]]]:
    if not patterns:
        yield bindings, calls
        return
    for found, more in _matches(patterns[0], values[0], bindings, calls):
        yield from _match_all(patterns[1:], values[1:], found, more)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Node) or isinstance(second, Node):
        return first is second
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return list(first) == list(second)
    return bool(first == second)
