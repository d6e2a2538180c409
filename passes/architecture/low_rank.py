"""Matrices as products of two thin ones: which rank a budget allows, and the nearest product on given inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ...errors import InvalidInput
from ...program import Program

DAMPING = 1e-6
"""What is added to the diagonal of inputs' covariance, as a part of its mean, so that it has an inverse."""


@dataclass(frozen=True)
class RankBudget:
    """How large a rank may be: by the share of parameters that is left, or by the error.

    With `error` (relative) or `energy` (the share of the squared singular values that stays, 1 - error ** 2) the ratio
    does not count. Ranks above `multiple` are multiples of it, which kernels like: rounded down for the ratio, up for
    the others. Raises InvalidInput for numbers outside 0..1, and for both an error and an energy.
    """

    ratio: float
    energy: float | None
    error: float | None
    multiple: int

    def __post_init__(self) -> None:
        for name in ("ratio", "energy", "error"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InvalidInput(f"{name} must be above 0 and at most 1, not {value!r}")
        if self.energy is not None and self.error is not None:
            raise InvalidInput("energy and error must not both be given: one follows from the other; leave one out")
        if self.multiple < 1:
            raise InvalidInput(f"multiple must be at least 1, not {self.multiple!r}")

    @property
    def most_error(self) -> float | None:
        """The largest relative error; None where the ratio counts."""
        return (1 - self.energy) ** 0.5 if self.energy is not None else self.error

    def rank(self, values: Tensor, share: float = 1.0) -> int:
        """The least rank with at most `share` of the squared error. `values` are singular values, largest first."""
        error = self.most_error
        assert error is not None
        squares = values.square()
        tails = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
        least = max(1, int((tails > error**2 * share * tails[0]).sum()))
        return min(len(values), self.rounded(least, up=True))

    def rounded(self, rank: int, *, up: bool) -> int:
        """The multiple next to a rank, which is at least 1."""
        if rank <= self.multiple:
            return max(1, rank)
        return (rank + (self.multiple - 1 if up else 0)) // self.multiple * self.multiple


@dataclass
class Moments:
    """What was seen of a layer's inputs: sums over rows, from which mean and covariance follow."""

    rows: int = 0
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, x: Tensor) -> None:
        """Rows [..., k]."""
        rows = x.reshape(-1, x.shape[-1]).double()
        self.rows += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """[k]"""
        mean: Tensor = self.total / self.rows
        return mean

    @property
    def variance(self) -> Tensor:
        """[k]"""
        return self.covariance.diagonal().clamp(min=0)

    @property
    def covariance(self) -> Tensor:
        """[k, k]"""
        covariance: Tensor = self.squares / self.rows - torch.outer(self.mean, self.mean)
        return covariance


@dataclass(frozen=True)
class Whitening:
    """A matrix S with S @ S.T = the covariance of inputs, so that ||W @ S|| is the size of a layer's results."""

    root: Tensor
    mean: Tensor

    @staticmethod
    def of(moments: Moments) -> Whitening | None:
        """None where inputs were not finite."""
        covariance = moments.covariance
        if not bool(covariance.isfinite().all()):
            return None
        mean = float(covariance.diagonal().mean())
        damped = covariance + (DAMPING * mean + (mean == 0)) * torch.eye(len(covariance), dtype=covariance.dtype)
        return Whitening(torch.linalg.cholesky(damped), moments.mean)


@dataclass(frozen=True)
class Decomposition:
    """left @ diag(values) @ right is the matrix [n, k]; singular values are as the whitening sees it."""

    matrix: Tensor
    left: Tensor
    values: Tensor
    right: Tensor
    whitening: Whitening | None = field(default=None)

    @staticmethod
    def of(matrix: Tensor, whitening: Whitening | None = None) -> Decomposition:
        """The singular value decomposition of a matrix, or of what it makes of inputs."""
        wide = matrix.double()
        seen = wide if whitening is None else wide @ whitening.root
        left, values, right = torch.linalg.svd(seen, full_matrices=False)
        if whitening is not None:
            right = torch.linalg.solve_triangular(whitening.root, right, upper=False, left=False)
        return Decomposition(wide, left, values, right, whitening)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """[n, rank] and [rank, k] with the nearest product; both get the same share of each singular value."""
        roots = self.values[:rank].sqrt()
        return self.left[:, :rank] * roots, roots[:, None] * self.right[:rank]


class InputMoments(Interpreter):
    """Runs a Program and sums up the moments of the inputs of some layers."""

    def __init__(self, program: Program, layers: Iterable[Node]) -> None:
        super().__init__(program.graph_module)
        self.moments = {layer: Moments() for layer in layers}

    def see(self, data: Iterable[Sequence[Tensor]]) -> dict[Node, Moments]:
        """The moments over all items of flat inputs. Raises InvalidInput when there is no item."""
        with torch.no_grad():
            for inputs in data:
                self.run(*inputs)
        if any(not moments.rows for moments in self.moments.values()):
            raise InvalidInput("data must hold at least one item of inputs, but it is empty; leave it out for none")
        return self.moments

    def run_node(self, n: Node) -> Any:
        if n in self.moments:
            self.moments[n].add(self.env[n.all_input_nodes[0]])
        return super().run_node(n)
