"""attention of h heads  ->  attention of fewer heads, the most alike of which became one

Heads that compute nearly the same are many: Michel et al., "Are Sixteen Heads Really Better than One?",
arXiv:1905.10650. Here the heads whose weights (of queries, keys and values) point in the most similar directions are
merged, pair by pair: what makes their values is averaged, what reads them is added up. So heads that are copies of each
other, as `widen` makes them, merge without any error.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...ops import fxpress
from ...program import Program
from ...report.replaced import LayerReplacement
from ...rewriter import Accuracy, Pass, Rewriter
from ...search.ranges import Range, not_searched, search
from ..growth.copies import summed_weights
from ..match import is_call
from ..pruning.groups import Group, find_groups
from ..pruning.remove_units import Removal, RemoveUnits
from ..pruning.ties import Axis
from .replacing import Scopes, chosen_groups, relative, scopes_text

aten = torch.ops.aten

ATTENTION = (aten.scaled_dot_product_attention.default, fxpress.attention.default, aten.softmax.int)
HEADS = -3
"""The dim of an attention's result, or of its weights where it is written out, that holds heads."""


@dataclass(frozen=True)
class MergeHeads(Pass):
    """attention of h heads  ->  attention of fewer heads, the most alike of which became one

    `ratio` is the share of each attention's heads that go; pairs whose weights have a cosine below `alike` stay apart.
    `only` and `ignore` name layers that make or read heads. Raises InvalidInput for a ratio outside 0..1.
    """

    name: ClassVar[str] = "merge-heads"
    accuracy: ClassVar[Accuracy] = "lossy"
    ratio: float = field(default=0.25, metadata=search(Range(0.0, 0.75)))
    alike: float = field(default=-1.0, metadata=not_searched("a guard"))
    only: Scopes = None
    ignore: Scopes = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise InvalidInput(f"ratio must be from 0 to 1, not {self.ratio!r}")

    def options(self) -> dict[str, Any]:
        return {**super().options(), "only": scopes_text(self.only), "ignore": scopes_text(self.ignore)}

    def run(self, program: Program, rw: Rewriter) -> None:
        groups = find_groups(program)
        found = {node: group for group in groups.removable for node in attentions(group)}
        heads = list(dict.fromkeys(found.values()))
        chosen = chosen_groups(heads, self.only, self.ignore, "merged")
        for node in program.nodes:
            if is_call(node, *ATTENTION[:2]) and node not in found:
                rw.skip(node, "its heads depend on what must stay whole, or there is only one")
        summed = summed_weights(program, groups)
        removed: dict[Group, list[int]] = {}
        for group in chosen:
            if rw.has_fuel():
                gone = self._merge(program, group, summed, rw)
                if gone:
                    removed[group] = gone
        removal = Removal.of(groups, removed)
        RemoveUnits(Removal(removal.gone, removal.sizes)).run(program, rw)

    def _merge(self, program: Program, group: Group, summed: Collection[Axis], rw: Rewriter) -> list[int]:
        """Write merged weights to the first head of each cluster; the heads that go."""
        made = [axis for axis in group.constants if axis not in summed]
        weights = [_by_head(program.constant(axis.node), group, axis) for axis in made]
        clusters = self._clusters(weights, group.size)
        if len(clusters) == group.size:
            rw.skip(group.layers[0], "no heads are to be merged, or none are alike enough")
            return []
        means = torch.zeros(group.size, group.size, dtype=torch.float64)
        for cluster in clusters:
            means[np.ix_(cluster, cluster)] = 1 / len(cluster)
        sums = (means > 0).double()
        merged = [torch.einsum("ij,jk->ik", means, x) for x in weights]
        error = relative(torch.cat([m - x for m, x in zip(merged, weights, strict=True)], 1), torch.cat(weights, 1))
        for axis in group.constants:
            tensor = program.constant(axis.node)
            mixed = (sums if axis in summed else means) @ _by_head(tensor, group, axis)
            rw.set_constant(axis.node, _with_heads(tensor, mixed, group, axis))
        row = LayerReplacement(group.name, f"{group.size} heads", f"{len(clusters)} heads", error)
        rw.log.append(f"{row.text()}: {' '.join('+'.join(map(str, c)) for c in clusters if len(c) > 1)}")
        rw.decisions.append(row.to_json())
        return [head for cluster in clusters for head in cluster[1:]]

    def _clusters(self, weights: list[Tensor], size: int) -> list[list[int]]:
        """The heads in clusters, of which each becomes one: the most similar pair goes together until few enough."""
        vectors = torch.cat([x / (float(x.norm()) or 1.0) for x in weights], 1)
        clusters = [[head] for head in range(size)]
        for _ in range(min(int(self.ratio * size + 1e-9), size - 1)):
            means = torch.stack([vectors[cluster].mean(0) for cluster in clusters])
            cosines = _cosines(means)
            first, second = sorted(divmod(int(cosines.argmax()), len(clusters)))
            if cosines[first, second] < self.alike:
                break
            clusters[first] = sorted(clusters[first] + clusters.pop(second))
        return clusters


def attentions(group: Group) -> list[Node]:
    """The calls whose heads are units of the group."""
    axes = (axis for axis in group.units if is_call(axis.node, *ATTENTION) and axis.node.meta["val"].dim() >= 3)
    return [axis.node for axis in axes if axis.dim == axis.node.meta["val"].dim() + HEADS]


def _cosines(vectors: Tensor) -> NDArray[np.float64]:
    """The cosine of each pair of rows, none of a row with itself."""
    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-300)
    cosines: NDArray[np.float64] = (unit @ unit.T).fill_diagonal_(-np.inf).numpy()
    return cosines


def _order(group: Group, axis: Axis) -> Tensor:
    """The indices of an axis that are of heads, head by head [heads, indices of a head]."""
    return torch.stack([torch.from_numpy(group.indices(axis, [head])) for head in range(group.size)])


def _by_head(tensor: Tensor, group: Group, axis: Axis) -> Tensor:
    """What a constant has of each head, [heads, numbers], float64."""
    order = _order(group, axis)
    return tensor.double().index_select(axis.dim, order.flatten()).movedim(axis.dim, 0).reshape(group.size, -1)


def _with_heads(tensor: Tensor, values: Tensor, group: Group, axis: Axis) -> Tensor:
    """The constant with other numbers for each head."""
    order = _order(group, axis).flatten()
    rest = tensor.movedim(axis.dim, 0).shape[1:]
    return tensor.index_copy(axis.dim, order, values.reshape(-1, *rest).movedim(0, axis.dim).to(tensor.dtype))
