"""What a Plan's nodes cost in float32 and as the Plan quantises them: seconds on the target, and bytes of constants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...kernel_times import How, KernelTimes
from ...ops import fxpress
from ...pass_manager import PassManager
from ...program import Program
from ...registry import lookup
from ...rewriter import Pass
from ...target import Target
from ..match import is_constant
from .integer_ops import ROLES, values_of
from .placement import FLOAT32
from .plan import Plan
from .quantize_ops import ORIGIN, QuantizeOps
from .scopes import Scope, select

aten = torch.ops.aten
WEIGHTED = (fxpress.conv.default, fxpress.linear.default, aten.embedding.default)


@dataclass(frozen=True)
class Costs:
    """Seconds by node of the Plan's Program, of the kernels that were made for it, with what converts its operands."""

    how: How
    float32: dict[str, float]
    quantized: dict[str, float]

    @property
    def total(self) -> tuple[float, float]:
        """Seconds of all kernels in float32, and as quantised."""
        return sum(self.float32.values()), sum(self.quantized.values())


def quantized_program(plan: Plan, target: Target) -> Program:
    """The Program that a Plan describes."""
    passes: list[Pass | str] = [QuantizeOps(plan), "merge-duplicates", "drop-dead-code"]
    return PassManager(passes, verify="off", target=target).run(plan.program)


class Measure:
    """Costs of one Plan after another. What did not change is not measured again."""

    def __init__(self, times: KernelTimes) -> None:
        self._times = times

    def __call__(self, plan: Plan) -> Costs:
        """The costs of `plan`. Raises Unsupported for a Program with sizes that vary."""
        target, backend = self._times.target, lookup("backends", "tvm")()
        programs = [plan.program, quantized_program(plan, target)]
        found = self._times.of(*(backend.lower(program, target, fallback="torch") for program in programs))
        seconds = []
        for program, calls in zip(programs, found, strict=True):
            origin = {node.name: node.meta.get(ORIGIN, node.name) for node in program.nodes}
            sums: dict[str, float] = defaultdict(float)
            for use, each in calls:
                sums[origin.get(use.node, "")] += each
            seconds.append(dict(sums))
        return Costs(self._times.how, *seconds)


def computing(plan: Plan) -> set[str]:
    """The nodes that compute with integers, whatever their result; layers that store integers only are not meant."""
    products = {
        node.name
        for node in plan.program.nodes
        if node.op == "call_function" and ROLES.get(node.target) == "matmul" and node.name not in plan.left
    }
    return plan.integer | set(plan.layers) | (products if plan.config.is_static else set())


def pinned_names(plan: Plan, scopes: Sequence[Scope]) -> set[str]:
    """The nodes that scopes mean."""
    nodes = [node for node in plan.program.nodes if node.op == "call_function" and node.target in ROLES]
    return {node.name for node in select(nodes, scopes, "pin")} if scopes else set()


def constant_bytes(plan: Plan, target: Target) -> int:
    """Bytes of all constants of the quantised Program."""
    return sum(tensor.nbytes for tensor in quantized_program(plan, target).constants.values())


def layer_bytes(plan: Plan, name: str) -> tuple[int, int]:
    """Bytes of a layer with 8-bit weights (or as the Plan stores them), and in float32; 0 for other nodes."""
    node = plan.node(name)
    weight = values_of(node).get("weight") if node.op == "call_function" and node.target in WEIGHTED else None
    if weight is None or not is_constant(weight):
        return 0, 0
    full = plan.program.constant(weight)
    if name in plan.stored:
        parts = plan.stored[name].stored, plan.stored[name].scale, plan.stored[name].zero
        return sum(part.nbytes for part in parts if part is not None), full.nbytes
    scales = full.shape[0] * FLOAT32
    bias = 0 if node.target is aten.embedding.default else scales
    return full.numel() + scales + bias, full.nbytes + bias
