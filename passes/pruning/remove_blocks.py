"""x + f(x)  ->  x, for the residual branches f that are named"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import networkx as nx
import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ...errors import InvalidInput
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ..match import is_constant, same_type
from .config import PruneConfig

aten = torch.ops.aten


@dataclass(frozen=True)
class Block:
    """A residual branch: `total` is `skip` plus what the branch computes from it with weights of its own."""

    total: Node
    skip: Node
    branch: Node


@dataclass(frozen=True)
class RemoveBlocks(Pass):
    """x + f(x)  ->  x, for the residual branches f that are named

    A branch goes by the name of the sum that closes it.
    """

    name: ClassVar[str] = "remove-blocks"
    accuracy: ClassVar[Accuracy] = "lossy"
    establishes: ClassVar[tuple[str, ...]] = ("pruned",)
    totals: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name

    def run(self, program: Program, rw: Rewriter) -> None:
        rw.recipe = {"pass": self.name, "totals": list(self.totals)}
        for name in self.totals:
            # one branch may lie in another that is gone already, or follow one and have another skip now
            block = next((block for block in find_blocks(program) if block.total.name == name), None)
            if block is not None and rw.has_fuel():
                rw.burn()
                rw.replace(block.total, block.skip)


def find_blocks(program: Program) -> list[Block]:
    """The residual branches of a Program, in graph order."""
    graph = nx.DiGraph((x, node) for node in program.nodes for x in node.all_input_nodes)
    found = []
    for node in program.nodes:
        if node.target is not aten.add.Tensor or node.kwargs or len(node.all_input_nodes) != 2:
            continue
        first, second = node.all_input_nodes
        for skip, branch in ((first, second), (second, first)):
            if is_constant(skip) or not (same_type(skip, branch) and same_type(skip, node)):
                continue
            before = nx.ancestors(graph, branch) | {branch}
            if skip in before and any(_is_weight(x) for x in before - nx.ancestors(graph, skip)):
                found.append(Block(node, skip, branch))
                break
    return found


def _is_weight(node: Node) -> bool:
    return is_constant(node) and bool(node.meta["val"].dim() > 1)


def least_blocks(program: Program, config: PruneConfig, data: Iterable[Sequence[Tensor]]) -> RemoveBlocks:
    """The pass that removes the share `config.blocks` of the branches: those whose sums have least energy from them.

    Raises InvalidInput when there is no residual branch.
    """
    blocks = find_blocks(program)
    if not blocks:
        raise InvalidInput(f"blocks must be 0 for a model without residual branches, x + f(x), not {config.blocks!r}")
    if config.importance == "random":
        scores = np.random.default_rng(config.seed).random(len(blocks))
    else:
        scores = np.zeros(len(blocks))
        for inputs in data:
            scores += _Branches(program, blocks).measure(inputs)
    count = int(config.blocks * len(blocks) + 1e-9)
    return RemoveBlocks(tuple(blocks[i].total.name for i in sorted(np.argsort(scores, kind="stable")[:count])))


class _Branches(Interpreter):
    """Measures how much of each sum's energy comes from its branch."""

    def __init__(self, program: Program, blocks: Sequence[Block]) -> None:
        super().__init__(program.graph_module)
        self._blocks = {block.total: number for number, block in enumerate(blocks)}
        self._branches = [block.branch for block in blocks]
        self._shares = np.zeros(len(blocks))

    def measure(self, inputs: Sequence[Tensor]) -> Any:
        with torch.no_grad():
            self.run(*inputs)
        return self._shares

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._blocks:
            number = self._blocks[n]
            branch = self.env[self._branches[number]].double().square().sum()
            self._shares[number] = float(branch / value.double().square().sum().clamp(min=1e-300))
        return value
