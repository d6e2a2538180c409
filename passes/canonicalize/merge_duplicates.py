"""f(x), f(x)  ->  one f(x); equal constants  ->  one constant"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ...program import Program
from ...rewriter import Pass, Rewriter

SAMPLES = 64


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """f(x), f(x)  ->  one f(x), and so for constants with the same bits (common subexpressions)"""

    name: ClassVar[str] = "merge-duplicates"

    def run(self, program: Program, rw: Rewriter) -> None:
        _merge_constants(program, rw)
        _merge_calls(program, rw)


def _merge_constants(program: Program, rw: Rewriter) -> None:
    kept: dict[Hashable, list[Node]] = defaultdict(list)
    for node in program.nodes:
        if node.op != "get_attr" or not rw.has_fuel():
            continue
        tensor = program.constant(node)
        candidates = kept[_fingerprint(tensor)]
        twin = next((other for other in candidates if _same_bits(program.constant(other), tensor)), None)
        if twin is None:
            candidates.append(node)
        else:
            rw.replace(node, twin)
            rw.burn()


def _fingerprint(tensor: torch.Tensor) -> Hashable:
    """Equal for equal tensors, and cheap: a few elements stand for all."""
    step = max(1, tensor.numel() // SAMPLES)
    samples = tensor.reshape(-1)[::step][:SAMPLES]
    return tensor.dtype, tuple(tensor.shape), bytes(_bits(samples).tolist())


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.data_ptr() == second.data_ptr() and first.stride() == second.stride():
        return True
    return torch.equal(_bits(first), _bits(second))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _merge_calls(program: Program, rw: Rewriter) -> None:
    kept: dict[Hashable, Node] = {}
    for node in program.nodes:
        if node.op != "call_function" or not rw.has_fuel() or _is_random(node):
            continue
        first = kept.setdefault((node.target, _key(node.args), _key(dict(node.kwargs))), node)
        if first is not node:
            rw.replace(node, first)
            rw.burn()


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _key(value: Any) -> Hashable:
    """A hashable twin of an argument. Types count: 1, 1.0 and True are not the same argument, nor are 0.0 and -0.0."""
    if isinstance(value, list | tuple):
        return tuple(_key(each) for each in value)
    if isinstance(value, dict):
        return tuple((name, _key(value[name])) for name in sorted(value))
    return value if isinstance(value, Node) else (type(value), repr(value))
