"""relu(layer(x))  ->  relu(identity(relu(layer(x)))); x + f(x)  ->  y + 0 * f(y) with y = x + f(x)

Chen, Goodfellow and Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", arXiv:1511.05641, section 2.3,
Net2DeeperNet: a new layer starts as the identity, where the activation is idempotent. Where it is not, and in
transformers, there are new residual branches whose last layer starts at zero: Goyal et al., "Accurate, Large Minibatch
SGD", arXiv:1706.02677, section 5.1; Bachlechner et al., "ReZero is All You Need", arXiv:2003.04887.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...program import Program
from ...report.replaced import LayerReplacement
from ...rewriter import Accuracy, Pass, Rewriter
from ...search.ranges import Choice, Range, search
from ..architecture.replacing import Scopes, chosen_nodes, scopes_text
from ..match import is_call
from ..pruning.remove_blocks import find_blocks
from .identity_layers import LAYERS, ChannelMoments, add_identity, end_of_block
from .zero_branches import add_zero_branch

LAYER, BLOCK = "layer", "block"


@dataclass(frozen=True, eq=False)
class Deepen(Pass):
    """relu(layer(x))  ->  relu(identity(relu(layer(x)))); x + f(x)  ->  y + 0 * f(y) with y = x + f(x)

    With `kind` "layer" each layer that ends in an idempotent activation, behind a batch norm or not, is followed by
    `times` more of its kind: a convolution of Dirac weights or an identity matrix, a batch norm that undoes itself if
    there was one, the activation. With "block" each residual branch is followed by as many copies of it whose last
    layer is zero. `data` yields flat inputs, whose statistics new batch norms then have; without it they have mean 0
    and variance 1, and training by batches starts elsewhere. `only` and `ignore` name layers, or the sums that close
    branches. Running it again deepens again.
    """

    name: ClassVar[str] = "deepen"
    accuracy: ClassVar[Accuracy] = "reassociating"
    kind: str = field(default=LAYER, metadata=search(Choice((LAYER, BLOCK))))
    times: int = field(default=1, metadata=search(Range(1, 3)))
    only: Scopes = None
    ignore: Scopes = None
    data: Iterable[Sequence[Tensor]] | None = None

    def __post_init__(self) -> None:
        if self.kind not in (LAYER, BLOCK):
            raise InvalidInput(f"kind must be {LAYER!r} or {BLOCK!r}, not {self.kind!r}")
        if self.times < 1:
            raise InvalidInput(f"times must be at least 1, not {self.times!r}")

    def options(self) -> dict[str, Any]:
        options = {name: x for name, x in super().options().items() if name != "data"}
        return {**options, "only": scopes_text(self.only), "ignore": scopes_text(self.ignore)}

    def run(self, program: Program, rw: Rewriter) -> None:
        if self.kind == LAYER:
            self._add_layers(program, rw)
        else:
            self._add_branches(program, rw)

    def _add_layers(self, program: Program, rw: Rewriter) -> None:
        layers = [node for node in program.nodes if is_call(node, *LAYERS)]
        chosen = self._chosen(layers)
        ends = {layer: end_of_block(layer) for layer in chosen}
        found = [end for end in ends.values() if not isinstance(end, str)]
        moments = None if self.data is None else ChannelMoments(program, found).see(self.data)
        for layer in chosen:
            end = ends[layer]
            if not rw.has_fuel():
                return
            if isinstance(end, str):
                rw.skip(layer, end)
                continue
            self._note(layer, "the identity", rw)
            add_identity(layer, end, self.times, moments, rw)

    def _add_branches(self, program: Program, rw: Rewriter) -> None:
        names = [node.name for node in self._chosen([block.total for block in find_blocks(program)])]
        for name in names:
            if not rw.has_fuel():
                return
            block = next(block for block in find_blocks(program) if block.total.name == name)
            reason = add_zero_branch(block, self.times, rw)
            if reason is None:
                self._note(block.total, "a branch that starts at zero", rw)
            else:
                rw.skip(block.total, reason)

    def _chosen(self, nodes: list[Node]) -> list[Node]:
        return chosen_nodes(nodes, self.only, self.ignore, "deepened")

    def _note(self, node: Node, what: str, rw: Rewriter) -> None:
        rw.burn()
        row = LayerReplacement(node.name, "itself", f"itself and {self.times} times {what}")
        rw.decisions.append(row.to_json())
        rw.log.append(f"{node.name}: followed by {self.times} times {what}")
