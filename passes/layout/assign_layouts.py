"""conv(x: NCHW)  ->  permute(conv(permute(x), channels_last=True)), for the whole graph at once"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ...program import Program
from ...rewriter import Pass, Rewriter
from .order import keeps_memory, permutation, reorder, shape_of, to_channels_first, to_channels_last
from .problem import state_problem
from .roles import KERNELS, Role, role_of

aten = torch.ops.aten


@dataclass(frozen=True)
class AssignLayouts(Pass):
    """conv(x: NCHW)  ->  permute(conv(permute(x), channels_last=True)), with the fewest bytes moved by permutes

    Chooses for every value near a convolution, pooling, resize or group norm whether it is channels-first or -last: the
    choice of least cost (`problem.py`) by a minimum cut. Inputs and outputs of the Program keep their order. What the
    ops in between do with order is in `roles.py`. Reassociating, since PyTorch sums in another order channels-last.
    """

    name = "assign-layouts"
    accuracy = "reassociating"
    establishes = ("layouts-assigned",)

    def run(self, program: Program, rw: Rewriter) -> None:
        if not any(node.target in KERNELS for node in program.nodes):
            return
        problem = state_problem(program)
        choices = problem.solve()
        writer = _Writer(rw)
        for node in program.nodes:
            if rw.erased(node) or node not in problem.roles:
                continue
            if not rw.has_fuel():
                return
            role = role_of(node)  # anew: its operands may have been rewritten
            if permutation(node) is not None and writer.cancel(node):
                continue
            if role is not None and (choices.get(node) or (role.kind == "absorb" and writer.is_last(role.operands[0]))):
                writer.write(node, role)


@dataclass
class _Writer:
    """Rewrites nodes one by one; the Program is right after each.

    A value written channels-last is followed by a permute back, which takes the old value's place. Whoever wants
    channels-last looks through that permute, and it dies when all do.
    """

    rw: Rewriter
    last: dict[Node, Node] = field(default_factory=dict)
    """The channels-last form of a value."""

    def is_last(self, value: Node) -> bool:
        """Whether the value is there channels-last without moving anything."""
        return value in self.last or permutation(value) == to_channels_first(len(shape_of(value)))

    def cancel(self, node: Node) -> bool:
        """permute(permute_back(x))  ->  x"""
        x: Node = node.args[0]
        if x not in self.last or permutation(node) != to_channels_last(len(shape_of(x))):
            return False
        self.rw.burn()
        self.rw.replace(node, self.last[x])
        return True

    def write(self, node: Node, role: Role) -> None:
        """Give the node its channels-last form."""
        rw, kind = self.rw, role.kind
        rank = len(shape_of(node))

        def form(x: Node) -> Node:
            if kind == "emit" or x not in role.operands:
                return x
            return self.to_last(x, rank if kind == "broadcast" else len(shape_of(x)), node)

        args, kwargs = _with(node, map_arg((node.args, dict(node.kwargs)), form), role.changes)
        new = rw.call(node.target, *args, at=node, **kwargs)
        rw.burn()
        if isinstance(new.meta["val"], tuple | list):
            self.last[node] = new  # its users are getitems, written next
            return
        if kind == "absorb":
            rw.replace(node, new)
            return
        back = rw.call(aten.permute.default, new, to_channels_first(rank), at=node)
        self.last[back] = new
        rw.replace(node, back)

    def to_last(self, x: Node, rank: int, at: Node) -> Node:
        """The channels-last form of a value of at most `rank` dims, to be broadcast to that rank."""
        if x in self.last:
            return self.last[x]
        shape = list(shape_of(x))
        order = to_channels_last(rank)
        if len(shape) < rank and all(size == 1 for size in shape):
            return x
        constant = self.rw.value(x)
        if constant is not None:
            full = constant.reshape([1] * (rank - len(shape)) + shape).permute(order)
            while len(shape) < rank and full.shape[0] == 1 and full.dim() > 1:
                full = full[0]
            return self._remember(x, self.rw.constant(f"{x.target}_channels_last", full.contiguous()))
        if permutation(x) == to_channels_first(rank):
            return x.args[0]
        if len(shape) == rank:
            return self._remember(x, self.rw.call(aten.permute.default, x, order, at=at))
        sizes = [1] * (rank - len(shape)) + shape
        if keeps_memory(sizes, order):
            return self.rw.call(aten.reshape.default, x, reorder(sizes, order), at=at)
        return self.rw.call(aten.permute.default, self.rw.call(aten.reshape.default, x, sizes, at=at), order, at=at)

    def _remember(self, x: Node, moved: Node) -> Node:
        if len(shape_of(x)) == len(shape_of(moved)):
            self.last[x] = moved
        return moved


def _with(node: Node, call: tuple[Any, dict[str, Any]], changes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call with some changed, by name."""
    args, kwargs = list(call[0]), dict(call[1])
    if node.target is operator.getitem or not changes:
        return args, kwargs
    names = [argument.name for argument in node.target._schema.arguments]
    for name, value in changes.items():
        position = names.index(name)
        if position < len(args):
            args[position] = value
        else:
            kwargs[name] = value
    return args, kwargs
