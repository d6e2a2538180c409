"""linear(x, a), linear(x, b)  ->  slices of linear(x, [a; b]): queries, keys and values; gates and what they gate"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from ...rewriter import Rewriter, rewrite
from ..match import arguments, dtype, is_call, is_constant, shape

aten = torch.ops.aten

VIEWS = (aten.reshape.default, aten.permute.default, aten.slice.Tensor, aten.select.int, aten.expand.default)
HEAVY = (
    fxpress.linear.default,
    fxpress.conv.default,
    aten.matmul.default,
    aten.bmm.default,
    aten.scaled_dot_product_attention.default,
    fxpress.attention.default,
)
NEEDS_DENSE = (fxpress.linear.default, fxpress.conv.default)


@rewrite(fxpress.linear.default, accuracy="reassociating")
def merge_qkv(node: Node, rw: Rewriter) -> None:
    """linear(x, a), linear(x, b), ...  ->  slices of linear(x, [a; b; ...])

    Only layers without activation or residual that run before any result of theirs is multiplied again, so that no
    merged result waits in memory; whose weights nobody else uses, since those would be stored twice; and whose results
    are not operands of a layer or the Program's results, which would copy the slice.
    """
    siblings = [n for n in _together(node) if _may_merge(n, node, rw)]
    if node not in siblings or len(siblings) < 2:
        return
    found = [arguments(n) for n in siblings]
    weights = [rw.program.constant(a["weight"]) for a in found]
    weight = rw.constant(f"{found[0]['weight'].target}_merged", torch.cat(weights))
    merged = rw.call(fxpress.linear.default, found[0]["x"], weight, _bias(found, weights, rw), None, "none", at=node)
    dim, ends = len(shape(merged)) - 1, list(accumulate(map(len, weights)))
    parts = [rw.call(aten.slice.Tensor, merged, dim, start, end, at=node) for start, end in pairwise([0, *ends])]
    for sibling, part in zip(siblings, parts, strict=True):
        rw.replace(sibling, part)


def _together(node: Node) -> Iterator[Node]:
    """`node` and the layers on the same input after it, up to the first product of what these give."""
    results = {node}
    x = node.args[0]
    following: Node = node
    while following.op != "output":
        if following is not node and not results.isdisjoint(following.all_input_nodes):
            if following.target in HEAVY:
                return
            results.add(following)
        elif is_call(following, fxpress.linear.default) and following.args[0] is x:
            results.add(following)
            yield following
        following = following.next


def _may_merge(node: Node, first: Node, rw: Rewriter) -> bool:
    a = arguments(node)
    if a["activation"] != "none" or a["residual"] is not None or not is_constant(a["weight"]):
        return False
    if dtype(a["weight"]) != dtype(arguments(first)["weight"]) or not (a["bias"] is None or is_constant(a["bias"])):
        return False
    if len(a["weight"].users) > 1:
        rw.skip(node, "a layer whose weight is used elsewhere is not merged: the weight would be stored twice")
        return False
    if any(user.op == "output" or user.target in NEEDS_DENSE for user in _readers(node)):
        rw.skip(node, "a layer is not merged when its result would be copied out of the merged one")
        return False
    return True


def _readers(node: Node) -> Iterator[Node]:
    """Who reads the value or a view of it."""
    for user in node.users:
        yield from _readers(user) if user.target in VIEWS else (user,)


def _bias(found: list[dict[str, Any]], weights: list[torch.Tensor], rw: Rewriter) -> Node | None:
    if all(a["bias"] is None for a in found):
        return None
    parts = [
        w.new_zeros(len(w)) if a["bias"] is None else rw.program.constant(a["bias"])
        for a, w in zip(found, weights, strict=True)
    ]
    name = next(a["bias"].target for a in found if a["bias"] is not None)
    return rw.constant(f"{name}_merged", torch.cat(parts))
