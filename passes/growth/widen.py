"""layer2(layer1(x, w1), w2)  ->  the same with more units: copies of those there are, whose outgoing weights are split

Chen, Goodfellow and Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", arXiv:1511.05641, section 2.2,
Net2WiderNet, on the dependency groups of pruning, so that residual sums, batch norms, concatenations, depthwise
convolutions and heads stay right. Copies are told apart by the noise in how outgoing weights are split, which leaves
the function as it is; the paper adds it to incoming weights.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidInput
from ...program import Program
from ...report.replaced import LayerReplacement
from ...rewriter import Accuracy, Pass, Rewriter
from ...search.ranges import Range, not_searched, search
from ..architecture.replacing import Scopes, chosen_groups, scopes_text
from ..match import change_call
from ..pruning.groups import Group, Groups, find_groups
from ..pruning.index_maps import literals_of
from ..pruning.ties import Axis
from .copies import Copies, even_times, obstacles, summed_weights


@dataclass(frozen=True)
class Widen(Pass):
    """layer2(layer1(x, w1), w2)  ->  the same with `ratio` times the units: copies, whose outgoing weights are split

    Units are copied equally often, the rest of them by lot from `seed`. With `noise` the shares that copies get of a
    weight differ by so much of it (a standard deviation), but add up to it, so that training makes them different.
    `only` and `ignore` name layers. Running it again widens again. Raises InvalidInput for a ratio below 1.
    """

    name: ClassVar[str] = "widen"
    accuracy: ClassVar[Accuracy] = "reassociating"
    ratio: float = field(default=2.0, metadata=search(Range(1.0, 3.0, step=0.25)))
    noise: float = field(default=0.0, metadata=not_searched("it only breaks a symmetry"))
    seed: int = field(default=0, metadata=not_searched("a search has one of its own"))
    only: Scopes = None
    ignore: Scopes = None

    def __post_init__(self) -> None:
        if not self.ratio >= 1:
            raise InvalidInput(f"ratio must be at least 1, not {self.ratio!r}; fxpress.prune makes models narrower")
        if not self.noise >= 0:
            raise InvalidInput(f"noise must be at least 0, not {self.noise!r}")

    def options(self) -> dict[str, Any]:
        return {**super().options(), "only": scopes_text(self.only), "ignore": scopes_text(self.ignore)}

    def run(self, program: Program, rw: Rewriter) -> None:
        groups = find_groups(program)
        chosen = chosen_groups(groups.removable, self.only, self.ignore, "widened")
        for whole in groups.blocked:
            for layer in whole.layers:
                if not any(layer in group.layers for group in groups.removable):
                    rw.skip(layer, f"keeps its width: {whole.why}")
        copies = self._copies(program, groups, chosen, rw)
        if not copies.times:
            return
        rw.burn()
        for group, times in copies.times.items():
            row = LayerReplacement(group.name, f"{group.size} units", f"{int(times.sum())} units")
            rw.decisions.append(row.to_json())
            rw.log.append(f"{group.name}: {row.before} become {row.after}")
        self._apply(program, copies, rw)

    def _copies(self, program: Program, groups: Groups, chosen: Collection[Group], rw: Rewriter) -> Copies:
        """The copies that change nothing; groups that are in the way of that are noted."""
        totals = {group: round(self.ratio * group.size) for group in chosen}
        times = {group: even_times(group, n, self.seed) for group, n in totals.items() if n > group.size}
        while True:
            copies = Copies(groups, times)
            wrong = {group: why for axis, why in obstacles(program, copies) for group in times if axis in group.units}
            if not wrong:
                return copies
            for group, why in wrong.items():
                rw.skip(group.layers[0] if group.layers else group.constants[0].node, f"keeps its width: {why}")
                del times[group]

    def _apply(self, program: Program, copies: Copies, rw: Rewriter) -> None:
        summed = summed_weights(program, copies.groups)
        touched = {axis.node for group in copies.times for axis in group.units}
        literals = {node: literals_of(node, copies) for node in program.nodes}
        done = set()
        for node in program.nodes:
            if node.op == "get_attr" and node in touched and node.target not in done:
                done.add(node.target)
                axes = [Axis(node, dim) for dim in range(node.meta["val"].dim())]
                rw.set_constant(node, self._copied(program.constant(node), axes, copies, summed))
        for node in program.nodes:
            if node.op != "call_function" or not (
                touched.intersection((node, *node.all_input_nodes)) or literals[node]
            ):
                continue
            if literals[node] and node.target is not operator.getitem:
                change_call(node, rw, **literals[node])
            else:
                rw.update(node, *node.args, **node.kwargs)

    def _copied(self, tensor: Tensor, axes: list[Axis], copies: Copies, summed: Collection[Axis]) -> Tensor:
        result = tensor
        for axis in axes:
            if not copies.changes(axis):
                continue
            order = torch.from_numpy(copies.indices(axis))
            result = result.index_select(axis.dim, order)
            if axis in summed:
                result = (result.double() * self._shares(result, axis, order, copies)).to(tensor.dtype)
        return result.contiguous()

    def _shares(self, weight: Tensor, axis: Axis, order: Tensor, copies: Copies) -> Tensor:
        """What part of the old weight each copy has, as [..., new indices, ...] that broadcasts to it."""
        sizes = [1] * weight.dim()
        sizes[axis.dim] = len(order)
        count = torch.from_numpy(copies.multiplicity(axis)).double()
        if not self.noise:
            return (1 / count[order]).reshape(sizes)
        chance = np.random.default_rng([self.seed, *axis.node.name.encode()])
        noise = torch.from_numpy(chance.standard_normal(tuple(weight.shape))).movedim(axis.dim, 0)
        mean = torch.zeros(len(count), *noise.shape[1:], dtype=noise.dtype).index_add(0, order, noise)
        mean = mean / count.reshape(-1, *[1] * (noise.dim() - 1))
        return (1 + self.noise * (noise - mean[order]).movedim(0, axis.dim)) / count[order].reshape(sizes)
