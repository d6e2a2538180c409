"""conv(x, w, b)  ->  conv1x1(conv(conv1x1(x, v), core), u, b), with core, u and v of small ranks and near w

Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
arXiv:1511.06530, section 3.1: Tucker-2, a decomposition along the channels only, by the higher-order singular value
decomposition (the leading singular vectors of the weight unfolded along each). Ranks come from a budget here, not from
variational Bayes. A pointwise convolution has two factors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...rewriter import Rewriter
from ...search.ranges import Range, not_searched, search
from ..match import arguments
from .low_rank import Decomposition, RankBudget
from .replacing import (
    CONVOLUTIONS,
    Cost,
    ReplaceLayers,
    Replacement,
    convolve,
    image,
    is_factor,
    places,
    relative,
    why_not_weight,
    window,
)  # fmt: skip

STEPS = 64
"""How finely ranks are tried, as shares of the channels."""


@dataclass(frozen=True)
class FactorConv(ReplaceLayers):
    """conv(x, w, b)  ->  conv1x1(conv(conv1x1(x, v), core), u, b), with core, u and v of small ranks and near w

    Ranks leave at most `ratio` of a layer's parameters, or, if given, have at most the relative `error`, or keep
    `energy` of the weight's square.
    """

    name: ClassVar[str] = "factor-conv"
    ops = tuple(CONVOLUTIONS)
    ratio: float = field(default=0.5, metadata=search(Range(0.1, 0.9)))
    energy: float | None = field(default=None, metadata=not_searched("it takes the place of a ratio"))
    error: float | None = field(default=None, metadata=not_searched("it takes the place of a ratio"))
    multiple: int = field(default=8, metadata=not_searched("what kernels like"))

    def __post_init__(self) -> None:
        self._budget()

    def _budget(self) -> RankBudget:
        return RankBudget(self.ratio, self.energy, self.error, self.multiple)

    def replacements(self, nodes: Sequence[Node], rw: Rewriter) -> Iterator[tuple[Node, Replacement | str]]:
        reasons = {node: _why_not(node, rw) for node in nodes}
        return ((node, reasons[node] or self._replacement(node, rw)) for node in nodes)

    def _replacement(self, node: Node, rw: Rewriter) -> Replacement:
        a = arguments(node)
        weight = rw.program.constant(a["weight"])
        oc, ic, *kernel = weight.shape
        parts = tucker(weight, self._budget())
        cost = Cost(0, 0)
        for part, count in zip(parts, self._counts(node, parts), strict=True):
            cost += Cost(part.numel(), part.numel() * count)

        def build(rw: Rewriter) -> Node:
            names = ("right", "core", "left") if len(parts) == 3 else ("right", "left")
            constants = [
                rw.constant(f"{a['weight'].target}_{name}", part.to(weight.dtype).contiguous())
                for name, part in zip(names, parts, strict=True)
            ]
            y = a["input"]
            for number, constant in enumerate(constants):
                is_last, is_window = number == len(parts) - 1, number == len(parts) - 2
                y = convolve(rw, node, y, constant, a["bias"] if is_last else None, **window(node) if is_window else {})
            return y

        text = "x".join(map(str, kernel))
        ranks = " -> ".join(str(len(part)) for part in parts[:-1])
        return Replacement(
            f"{ic} -> {oc} of {text}", f"{ic} -> {ranks} -> {oc}",
            (Cost(weight.numel(), weight.numel() * places(node, image(node))), cost),
            relative(product(parts) - weight.double(), weight.double()), build,
        )  # fmt: skip

    @staticmethod
    def _counts(node: Node, parts: Sequence[Tensor]) -> list[int]:
        """At how many places each part is computed: what comes before the window at those of the input."""
        after = places(node, image(node))
        before = places(arguments(node)["input"], image(node))
        return [before] * (len(parts) - 2) + [after, after]


def _why_not(node: Node, rw: Rewriter) -> str | None:
    groups = arguments(node)["groups"]
    if groups != 1:
        return f"it has {groups} groups"
    if is_factor(node, tuple(CONVOLUTIONS)):
        return "it is a factor already"
    return why_not_weight(rw.program, node)


def tucker(weight: Tensor, budget: RankBudget) -> list[Tensor]:
    """The weights of convolutions whose product is near `weight` [oc, ic, *kernel], in the order they are applied.

    Three of them, [ri, ic], [ro, ri, *kernel] and [oc, ro], or [r, ic] and [oc, r] for a pointwise one, float64.
    """
    oc, ic, *kernel = weight.shape
    ones = [1] * len(kernel)
    taps = weight[0, 0].numel()
    wide = weight.double()
    if taps == 1:
        parts = Decomposition.of(wide.reshape(oc, ic))
        rank = int(budget.ratio * oc * ic / (oc + ic))
        rank = budget.rounded(rank, up=False) if budget.most_error is None else budget.rank(parts.values)
        left, right = parts.factors(rank)
        return [right.reshape(rank, ic, *ones), left.reshape(oc, rank, *ones)]
    by_output = torch.linalg.svd(wide.reshape(oc, -1), full_matrices=False)
    by_input = torch.linalg.svd(wide.transpose(0, 1).reshape(ic, -1), full_matrices=False)
    if budget.most_error is None:
        ro, ri = ranks_within(budget, oc, ic, taps)
    else:  # the squared error is at most the sum of both
        ro, ri = (budget.rank(values, share=0.5) for values in (by_output[1], by_input[1]))
    left, right = by_output[0][:, :ro], by_input[0][:, :ri]
    core = torch.einsum("oit,or,is->rst", wide.reshape(oc, ic, taps), left, right).reshape(ro, ri, *kernel)
    return [right.T.reshape(ri, ic, *ones), core, left.reshape(oc, ro, *ones)]


def ranks_within(budget: RankBudget, oc: int, ic: int, taps: int) -> tuple[int, int]:
    """The largest ranks, in proportion to the channels, with at most the budget's share of parameters; or the least."""
    for step in range(STEPS, 0, -1):
        ro, ri = (budget.rounded(max(1, channels * step // STEPS), up=False) for channels in (oc, ic))
        if ic * ri + ri * ro * taps + ro * oc <= budget.ratio * oc * ic * taps:
            break
    return ro, ri


def product(parts: Sequence[Tensor]) -> Tensor:
    """The weight of the one convolution that computes what the parts do one after the other."""
    weight, *later = parts
    for part in later:
        a, b = part.flatten(2), weight.flatten(2)  # one of them has a single tap
        kernel = part.shape[2:] if a.shape[2] > 1 else weight.shape[2:]
        weight = torch.einsum("ort,rix->oitx", a, b).reshape(len(a), b.shape[1], *kernel)
    return weight
