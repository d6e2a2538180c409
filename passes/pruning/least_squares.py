"""The change of a layer's weights that takes up most of its errors: ridge regression, in float64, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 200
"""The most steps of conjugate gradients, for weights with zeros that stay."""
TOLERANCE = 1e-10
ROUNDING = 1e-9
"""Of the inputs' energy, their mean included: far above what float64 may be off, far below what any ridge is."""


class LeastSquares:
    """Finds `step` and `shift` with small |errors - rows @ step.T - shift|^2 + ridge * (mean energy) * |step|^2.

    `weight` is [groups, n, k]; `step` is zero where it is, unless all of it is zero. `shift` [groups, n] has no ridge.
    """

    def __init__(self, weight: Tensor, ridge: float) -> None:
        groups, n, k = weight.shape
        self._ridge = ridge
        self._mask = (weight != 0).double() if weight.any() and not weight.all() else None
        self._count = 0
        self._sum = torch.zeros(groups, k, dtype=torch.float64)
        self._moment = torch.zeros(groups, k, k, dtype=torch.float64)
        self._cross = torch.zeros(groups, n, k, dtype=torch.float64)
        self._error = torch.zeros(groups, n, dtype=torch.float64)
        self._square = 0.0

    def add(self, rows: Tensor, errors: Tensor) -> None:
        """Take more rows [groups, r, k] and their errors [groups, r, n] into account."""
        rows, errors = rows.double(), errors.double()
        self._count += rows.shape[1]
        self._sum += rows.sum(1)
        self._moment += rows.mT @ rows
        self._cross += errors.mT @ rows
        self._error += errors.sum(1)
        self._square += float(errors.square().sum())

    @property
    def is_finite(self) -> bool:
        """Whether all that was seen is."""
        return bool(self._moment.isfinite().all() and self._cross.isfinite().all())

    def solve(self) -> tuple[Tensor, Tensor]:
        """The step [groups, n, k] and the shift [groups, n], float64."""
        moment, cross = self._centred()
        raised = moment + torch.diag_embed(self._raise(moment).expand(-1, moment.shape[1]))
        if self._mask is None:
            step = torch.cholesky_solve(cross.mT, torch.linalg.cholesky(raised)).mT
        else:
            step = conjugate_gradients(raised, cross, self._mask)
        shift = (self._error - (step @ self._sum.unsqueeze(2)).squeeze(2)) / self._count
        return step, shift

    def _raise(self, moment: Tensor) -> Tensor:
        """What is added to the diagonal, [groups, 1]: inputs that never change leave but rounding there."""
        energy, whole = (x.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) for x in (moment, self._moment))
        return self._ridge * energy.clamp(min=0) + ROUNDING * whole + (whole == 0)

    def _centred(self) -> tuple[Tensor, Tensor]:
        """The second moments of rows, and of errors with rows, less their means."""
        mean = self._sum / self._count
        moment = self._moment - self._sum.unsqueeze(2) * mean.unsqueeze(1)
        return moment, self._cross - self._error.unsqueeze(2) * mean.unsqueeze(1)

    def left(self, step: Tensor) -> float:
        """How much of the errors' norm is left with a step and the best shift for it."""
        moment, cross = self._centred()
        square = self._square - float(self._error.square().sum()) / self._count
        square += float((step @ moment * step).sum() - 2 * (step * cross).sum())
        return (max(square, 0.0) / self._square) ** 0.5 if self._square else 0.0


def conjugate_gradients(moment: Tensor, cross: Tensor, mask: Tensor, steps: int = STEPS) -> Tensor:
    """The step with mask * (step @ moment - cross) = 0 and step = step * mask, each row on its own, after `steps`."""
    scale = mask / moment.diagonal(dim1=1, dim2=2).unsqueeze(1)  # by the diagonal, which also masks
    step = torch.zeros_like(cross)
    left = cross * mask
    whole = left.norm()
    ahead = scaled = left * scale
    energy = (left * scaled).sum(2, keepdim=True)
    for _ in range(steps):
        if left.norm() <= TOLERANCE * whole:
            break
        product = ahead @ moment * mask
        length = energy / (ahead * product).sum(2, keepdim=True).clamp(min=1e-300)
        step, left = step + length * ahead, left - length * product
        scaled = left * scale
        before, energy = energy, (left * scaled).sum(2, keepdim=True)
        ahead = scaled + energy / before.clamp(min=1e-300) * ahead
    return step
