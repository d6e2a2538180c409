"""Copies of residual branches whose last layer is zero, so that they add nothing yet."""

from __future__ import annotations

import networkx as nx
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from ...rewriter import Rewriter
from ..architecture.replacing import CONVOLUTIONS
from ..match import arguments, call_again, is_call, is_constant, only_user
from ..pruning.remove_blocks import Block
from .identity_layers import IDEMPOTENT

aten = torch.ops.aten

VIEWS = (aten.reshape.default, aten.permute.default, aten.squeeze.dims, aten.unsqueeze.default)
LAST = (*CONVOLUTIONS, aten.linear.default, aten.batch_norm.default)
WEIGHTS = ("weight", "bias", "running_mean", "running_var", "params")
"""Arguments whose constants a copy of a branch has of its own."""


def add_zero_branch(block: Block, times: int, rw: Rewriter) -> str | None:
    """Follow a residual sum, and the idempotent activation behind it, by zero branches; why not where that fails."""
    last = _last_layer(block.branch)
    if isinstance(last, str):
        return last
    inside = _inside(block, rw)
    after = only_user(block.total)
    end = after if after is not None and is_call(after, *IDEMPOTENT) else block.total
    y = call_again(end, rw)
    for _ in range(times):
        copies: dict[Node, Node] = {block.skip: y}
        for node in inside:
            copies[node] = _copy(node, copies, node is last, end, rw)
        y = rw.call(aten.add.Tensor, y, copies[block.branch], at=end)
        if end is not block.total:
            y = rw.call(end.target, y, *end.args[1:], at=end, **end.kwargs)
    rw.replace(end, y)
    return None


def _last_layer(branch: Node) -> Node | str:
    """The layer whose zeros make the branch zero."""
    node = branch
    while is_call(node, *VIEWS):
        node = node.all_input_nodes[0]
    if is_call(node, *LAST) and is_constant(arguments(node)["weight"]):
        bias = arguments(node)["bias"]
        if is_constant(bias) or (bias is None and node.target is not aten.batch_norm.default):
            return node
    return f"its branch ends in %{node.name}, which is no layer that can start at zero"


def _inside(block: Block, rw: Rewriter) -> list[Node]:
    """What the branch computes from the skip, in order."""
    graph = nx.DiGraph((x, node) for node in rw.program.nodes for x in node.all_input_nodes)
    between = (nx.ancestors(graph, block.branch) | {block.branch}) & nx.descendants(graph, block.skip)
    return [node for node in rw.program.nodes if node in between]


def _copy(node: Node, copies: dict[Node, Node], is_last: bool, at: Node, rw: Rewriter) -> Node:
    own: dict[Node, Node] = {}
    for name, value in arguments(node).items() if isinstance(node.target, torch._ops.OpOverload) else ():
        for x in value if isinstance(value, list | tuple) else (value,):
            if is_constant(x) and (name in WEIGHTS or x.meta.get("parameter")):
                is_zero = is_last and name in ("weight", "bias")
                own[x] = rw.constant(f"{x.target}_copy", _tensor(x, is_zero, rw))
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda x: copies.get(x) or own.get(x) or x)
    return rw.call(node.target, *args, at=at, **kwargs)


def _tensor(x: Node, is_zero: bool, rw: Rewriter) -> Tensor:
    tensor = rw.program.constant(x)
    return torch.zeros_like(tensor) if is_zero else tensor.clone()
