"""A quantised Program as steps: each computes one value with one call of Gemmini's library, or in plain C."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch.fx import Node

from ....arguments import arguments
from ....ops import fxpress
from ....program import Program
from .parameters import LARGEST_POOL, LARGEST_POOLED, Parameters
from .sums import Sum, exact_sum

aten = torch.ops.aten

SAME_BYTES = frozenset({aten.reshape.default, aten.clone.default})
"""Ops whose result is their operand's bytes in another shape."""
VIEWS = frozenset({aten.permute.default, aten.slice.Tensor, aten.select.int, aten.expand.default})
"""Ops whose result is their operand's elements read with other strides."""
FLOAT_LAYERS = frozenset(
    {
        fxpress.quantized_conv_float.default,
        fxpress.quantized_linear_float.default,
        fxpress.quantized_matmul_float.default,
    }
)
"""Ops that scale 32-bit sums to float32."""


@dataclass(frozen=True, eq=False)
class Step:
    """`node` is the value written; `root` the op that says how, with what was merged into it."""

    node: Node
    root: Node
    operands: tuple[Node, ...]
    pool: Node | None = None
    sum: Sum | None = None

    @property
    def scratch_bytes(self) -> int:
        """Memory that is needed while the step runs: 32-bit sums."""
        return 4 * prod(shape(self.node)) if self.root.target in FLOAT_LAYERS else 0


@dataclass
class Steps:
    """What a Program does, in order. `inputs` maps the int8 values that callers give to the Program's own inputs.

    `bases` maps a value to the one whose bytes it has: itself, or what it was reshaped from.
    """

    inputs: dict[Node, Node] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    bases: dict[Node, Node] = field(default_factory=dict)

    def base(self, node: Node) -> Node:
        """The value that holds the bytes of `node`."""
        return self.bases.get(node, node)


def shape(node: Node) -> tuple[int, ...]:
    """The sizes of a node's value."""
    return tuple(int(size) for size in node.meta["val"].shape)


def plan_steps(program: Program, parameters: Parameters) -> Steps:
    """The steps of a Program. Ops that Gemmini has no call for become steps, too: who writes C refuses them."""
    plan = Steps()
    results = frozenset(program.results)
    pools = {conv: pool for conv in program.nodes if (pool := _merged_pool(conv, results, parameters)) is not None}
    sums = {
        node: found
        for node in program.nodes
        if node.target is fxpress.quantized_add.default
        and (found := exact_sum(node, parameters.mvin_scale)) is not None
    }
    absorbed = _absorbed(sums, results)
    for node in program.nodes:
        if node.op == "placeholder" and node.meta["val"].dtype == torch.int8:
            plan.inputs[node] = node
        if node.op != "call_function" or node in pools or node in absorbed or _is_before_quantize(node):
            continue
        source = _program_input(node)
        if source is not None and source not in plan.inputs.values():
            plan.inputs[node] = source
        elif node.target in SAME_BYTES:
            plan.bases[node] = plan.base(_first(node))
        else:
            plan.steps.append(_step(node, plan, {pool: conv for conv, pool in pools.items()}, sums))
    return plan


def _step(node: Node, plan: Steps, convs: dict[Node, Node], sums: dict[Node, Sum]) -> Step:
    root, found = convs.get(node, node), sums.get(node)
    operands = (found.a, found.b) if found is not None else tuple(root.all_input_nodes)
    values = tuple(plan.base(x) for x in operands if x.op != "get_attr")
    return Step(node, root, values, pool=node if root is not node else None, sum=found)


def _first(node: Node) -> Node:
    (x,) = node.all_input_nodes
    return x


def _is_before_quantize(node: Node) -> bool:
    """Whether a node only arranges an input that the caller quantises."""
    if node.target not in SAME_BYTES | VIEWS or node.meta["val"].dtype == torch.int8 or not node.users:
        return False
    return _source(node) is not None and all(
        user.target is fxpress.quantize.default or _is_before_quantize(user) for user in node.users
    )


def _source(node: Node) -> Node | None:
    """The input of the Program that `node` is a view of."""
    while node.target in SAME_BYTES | VIEWS:
        node = _first(node)
    return node if node.op == "placeholder" else None


def _program_input(node: Node) -> Node | None:
    """The input of the Program that this node quantises."""
    return _source(_first(node)) if node.target is fxpress.quantize.default else None


def _merged_pool(conv: Node, results: frozenset[Node], parameters: Parameters) -> Node | None:
    """The max pool that a convolution can do on its way out: Gemmini's are small and square, and pad with 0."""
    if conv.target is not fxpress.quantized_conv.default or len(conv.users) != 1 or conv in results:
        return None
    (pool,) = conv.users
    if pool.target is not fxpress.quantized_max_pool.default or len(shape(conv)) != 4:
        return None
    v, c = arguments(pool), arguments(conv)
    stride = v["stride"] or v["kernel"]
    if any(len(set(sizes)) != 1 for sizes in (v["kernel"], stride, v["padding"])):
        return None
    most = max(*v["kernel"], *stride, *v["padding"])
    if most > LARGEST_POOL or max(*shape(conv)[1:3], *shape(pool)[1:3]) > LARGEST_POOLED:
        return None
    pads_with_zero = v["padding"][0] == 0 or c["low"] >= 0
    plain = not v["ceil_mode"] and set(v["dilation"]) == {1} and v["channels_last"]
    fits = parameters.holds_window(c["stride"][0], v["kernel"][0], stride[0])
    return pool if pads_with_zero and plain and fits else None


def _absorbed(sums: dict[Node, Sum], results: frozenset[Node]) -> frozenset[Node]:
    """Requantisations that every reader does itself."""
    readers: dict[Node, set[Node]] = {}
    for add, found in sums.items():
        for node in found.absorbed:
            readers.setdefault(node, set()).add(add)
    return frozenset(node for node, adds in readers.items() if adds >= set(node.users) and node not in results)
