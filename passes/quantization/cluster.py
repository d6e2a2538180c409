"""weight  ->  codebook(indices, values): weights that share at most 256 values

Han et al., "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding",
arXiv:1510.00149, section 3: k-means on each layer's weights. It starts between the paper's even spacing, which keeps
the few large weights, and spacing by density: by its cube root, which is best for many values (Panter and Dite, 1951).
One of the values is 0, so that pruned weights stay pruned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...ops import fxpress
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ...search.ranges import Choice, search
from ..fusion.channels import PRODUCERS
from ..match import arguments, is_call

MOST_VALUES = 256
ROUNDS = 50
MOST_BINS = 4096
WEIGHTS_A_BIN = 64
SMALLEST = 1 << 14
"""Weights with fewer elements stay: as a codebook they would be folded to a constant again."""


def codebook_of(weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """uint8 indices of `weight`'s shape and `count` float32 values, the first of which is 0, by k-means.

    Every weight has the index of the value nearest to it. Raises InvalidInput unless `count` is 2..256 and the weight
    is finite.
    """
    if not 2 <= count <= MOST_VALUES:
        raise InvalidInput(f"values must be from 2 to {MOST_VALUES}, not {count!r}")
    if not bool(weight.isfinite().all()):
        raise InvalidInput("weight must hold finite numbers to be clustered, not NaN or infinity; repair the model")
    ordered = weight.detach().double().flatten().sort().values
    sums = torch.cat((torch.zeros(1, dtype=torch.float64), ordered.cumsum(0)))
    values = torch.cat((_start(ordered, count - 1), torch.zeros(1, dtype=torch.float64))).sort().values
    zero = int((values == 0).nonzero()[0])
    for _ in range(ROUNDS):
        bounds = torch.searchsorted(ordered, (values[1:] + values[:-1]) / 2)
        ends = torch.cat((torch.zeros(1, dtype=torch.int64), bounds, torch.tensor([len(ordered)])))
        sizes = ends.diff()
        means = (sums[ends[1:]] - sums[ends[:-1]]) / sizes.clamp(min=1)
        better = torch.where(sizes > 0, means, values)
        better[zero] = 0
        better = better.sort().values
        zero = int((better == 0).nonzero()[0])
        if torch.equal(better, values):
            break
        values = better
    table = values.float()
    nearest = torch.bucketize(weight.detach(), (table[1:] + table[:-1]) / 2)
    order = torch.cat((torch.tensor([zero]), torch.arange(zero), torch.arange(zero + 1, count)))
    return order.argsort()[nearest].to(torch.uint8), table[order]


def _start(ordered: Tensor, count: int) -> Tensor:
    """`count` values, as dense as the cube root of the density of the `ordered` weights."""
    low, high = float(ordered[0]), float(ordered[-1])
    if low == high:
        return torch.full((count,), low, dtype=torch.float64)
    bins = max(1, min(MOST_BINS, len(ordered) // WEIGHTS_A_BIN))
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    counts = torch.searchsorted(ordered, edges[1:-1])
    density = torch.cat((torch.zeros(1), counts, torch.tensor([len(ordered)]))).double().diff() ** (1 / 3)
    share = torch.cat((torch.zeros(1, dtype=torch.float64), density.cumsum(0))) / density.sum()
    wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    bin_of = (torch.searchsorted(share, wanted) - 1).clamp(0, bins - 1)
    inside = (wanted - share[bin_of]) / (share[bin_of + 1] - share[bin_of]).clamp(min=1e-300)
    return edges[bin_of] + inside.clamp(0, 1) * (edges[1] - edges[0])


@dataclass(frozen=True)
class ClusterWeights(Pass):
    """conv(x, w)  ->  conv(x, codebook(indices, values)); linear likewise

    Weights of at least 16384 elements are stored as a byte each and `values` numbers. They are expanded when the
    artifact is loaded, so only the file is smaller.
    """

    name: ClassVar[str] = "cluster-weights"
    accuracy: ClassVar[Accuracy] = "lossy"
    values: int = field(default=MOST_VALUES, metadata=search(Choice((16, 64, 256))))

    def run(self, program: Program, rw: Rewriter) -> None:
        for node in program.nodes:
            if node.op == "get_attr" and _is_weight(node) and rw.has_fuel():
                self._cluster(node, rw)

    def _cluster(self, weight: Node, rw: Rewriter) -> None:
        tensor = rw.program.constant(weight)
        if tensor.dtype != torch.float32:
            rw.skip(weight, f"it is {tensor.dtype}, not float32")
            return
        if tensor.numel() < SMALLEST:
            rw.skip(weight, f"it has fewer than {SMALLEST} elements")
            return
        rw.burn()
        indices, values = codebook_of(tensor, self.values)
        first = next(node for node in rw.program.nodes if weight in node.all_input_nodes)
        parts = rw.constant(f"{weight.target}_indices", indices), rw.constant(f"{weight.target}_values", values)
        rw.replace(weight, rw.call(fxpress.codebook.default, *parts, at=first))


def _is_weight(node: Node) -> bool:
    """Whether a constant is the weight of layers and nothing else."""
    return bool(node.users) and all(
        is_call(user, *PRODUCERS) and arguments(user)["weight"] is node and user.all_input_nodes.count(node) == 1
        for user in node.users
    )
