"""linear(x, w, b)  ->  linear(linear(x, v), u, b), with u @ v of low rank and near w

Truncated singular value decomposition. On calibration inputs the product is nearest in what the layer computes, not in
its weight: Wang et al., "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression",
arXiv:2403.07378, section 3.1, where inputs are whitened by the Cholesky factor of their second moments. Here those are
about the mean, and what the error makes of the mean goes into the bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...program import Program
from ...rewriter import Rewriter
from ...search.ranges import Range, not_searched, search
from ..match import arguments, shape
from .low_rank import Decomposition, InputMoments, Moments, RankBudget, Whitening
from .replacing import Cost, ReplaceLayers, Replacement, is_factor, places, relative, why_not_weight

aten = torch.ops.aten

LINEAR = aten.linear.default


@dataclass(frozen=True, eq=False)
class FactorLinear(ReplaceLayers):
    """linear(x, w, b)  ->  linear(linear(x, v), u, b), with u @ v of low rank and near w

    A rank leaves at most `ratio` of a layer's parameters, or, if given, has at most the relative `error`, or keeps
    `energy` of the squared singular values; `ranks` gives those of some layers by name. `data` yields flat inputs, on
    which errors are then those of layers' results.
    """

    name: ClassVar[str] = "factor-linear"
    ops = (LINEAR,)
    ratio: float = field(default=0.5, metadata=search(Range(0.1, 0.9)))
    energy: float | None = field(default=None, metadata=not_searched("it takes the place of a ratio"))
    error: float | None = field(default=None, metadata=not_searched("it takes the place of a ratio"))
    multiple: int = field(default=8, metadata=not_searched("what kernels like"))
    ranks: Mapping[str, int] = field(default_factory=dict)
    data: Iterable[Sequence[Tensor]] | None = None

    def __post_init__(self) -> None:
        self._budget()

    def options(self) -> dict[str, Any]:
        return {name: x for name, x in super().options().items() if name not in ("ranks", "data")}

    def replacements(self, nodes: Sequence[Node], rw: Rewriter) -> Iterator[tuple[Node, Replacement | str]]:
        reasons = {node: self._why_not(node, rw.program) for node in nodes}
        unknown = sorted(set(self.ranks) - {node.name for node in nodes})
        if unknown:
            raise InvalidInput(f"ranks must name layers among {[node.name for node in nodes]}, not {unknown[0]!r}")
        free = [node for node in nodes if reasons[node] is None]
        seen = InputMoments(rw.program, free).see(self.data) if self.data is not None and free else {}
        for node in nodes:
            yield node, reasons[node] or self._replacement(node, rw, seen.get(node))

    def _budget(self) -> RankBudget:
        return RankBudget(self.ratio, self.energy, self.error, self.multiple)

    @staticmethod
    def _why_not(node: Node, program: Program) -> str | None:
        if is_factor(node, (LINEAR,)):
            return "it is a factor already"
        return why_not_weight(program, node)

    def _replacement(self, node: Node, rw: Rewriter, moments: Moments | None) -> Replacement | str:
        a = arguments(node)
        weight = rw.program.constant(a["weight"])
        n, k = weight.shape
        whitening = None if moments is None else Whitening.of(moments)
        if moments is not None and whitening is None:
            return "its inputs on the calibration data are not finite"
        parts = Decomposition.of(weight, whitening)
        rank = min(self.ranks.get(node.name, self._rank(parts)), n, k)
        left, right = parts.factors(rank)
        missing = parts.matrix - left @ right
        rows = places(node, range(1, len(shape(node)) - 1))

        def build(rw: Rewriter) -> Node:
            rw.recipe.setdefault("ranks", {})[node.name] = rank
            name = a["weight"].target
            u, v = (rw.constant(f"{name}_{side}", x.to(weight.dtype)) for side, x in (("left", left), ("right", right)))
            bias = a["bias"]
            if whitening is not None:
                old = 0 if bias is None else rw.program.constant(bias).double()
                bias = rw.constant(f"{name}_bias", (old + missing @ whitening.mean).to(weight.dtype))
            return rw.call(LINEAR, rw.call(LINEAR, a["input"], v, at=node), u, bias, at=node)

        return Replacement(
            f"{k} -> {n}", f"{k} -> {rank} -> {n}",
            (Cost(n * k, n * k * rows), Cost(rank * (n + k), rank * (n + k) * rows)),
            relative(missing, parts.matrix), build,
            None if whitening is None else relative(parts.values[rank:], parts.values),
        )  # fmt: skip

    def _rank(self, parts: Decomposition) -> int:
        budget = self._budget()
        if budget.most_error is not None:
            return budget.rank(parts.values)
        n, k = parts.matrix.shape
        return budget.rounded(int(self.ratio * n * k / (n + k)), up=False)
