"""weight  ->  integers, each rounded up or down as gradient descent finds best for the layer's results

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv:2004.10568: equations 21 (the
layer's squared error), 23 (the rectified sigmoid) and 24 (the regulariser that makes it choose), with the exponent
annealed. The error is taken from the second moments of the layer's inputs (equation 20), so a step costs the same for
any number of items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .algorithms import Algorithm
from .calibration import Calibration
from .gptq import ITEMS, reconstruct
from .plan import Plan
from .walking import sample, walk

STEPS = 400
WARM_UP = 0.2
"""The part of the steps before the regulariser begins to count."""
RATE = 0.1
CHOICE = 1.0
"""What the regulariser counts beside the squared error in steps of the weight's scale."""
SHARPEST, SMOOTHEST = 2.0, 20.0
STRETCH = 1.2  # the sigmoid is stretched to -0.1..1.1 and cut off, so that it reaches 0 and 1


def learn_rounding(weight: Tensor, moment: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Integers [g, n, k] with a small squared error on inputs of that `moment`; arguments as for `round_columns`.

    Every integer is the one below or the one above, or a limit of low..high. Never worse than the nearest ones. Weights
    that are 0 stay 0, so that pruned ones stay pruned.
    """
    held = weight == 0
    exact = (weight.double() / scale.double() + zero.double()).float()
    below = exact.floor()
    metric = moment.float() / moment.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30).float()[:, None, None]
    share = ((exact - below).clamp(0.01, 0.99) + (STRETCH - 1) / 2) / STRETCH
    choice = (share / (1 - share)).log().requires_grad_()
    optimizer = torch.optim.Adam([choice], lr=RATE)

    def error_of(integers: Tensor) -> Tensor:
        error = integers.clamp(low, high) - exact
        return ((error @ metric) * error).mean(2)

    with torch.enable_grad():
        for step in range(STEPS):
            part = _rectified(choice).masked_fill(held, 0)
            loss = error_of(below + part).sum()
            progress = (step / STEPS - WARM_UP) / (1 - WARM_UP)
            if progress > 0:
                exponent = SMOOTHEST + (SHARPEST - SMOOTHEST) * progress
                loss = loss + CHOICE * (1 - (2 * part - 1).abs().pow(exponent)).mean(2).sum()
            (choice.grad,) = torch.autograd.grad(loss, choice)
            optimizer.step()
    learned = (below + (choice.detach() > 0).masked_fill(held, False)).clamp(low, high)
    nearest = exact.round().clamp(low, high)
    better = error_of(learned) < error_of(nearest)
    return torch.where(better.unsqueeze(2), learned, nearest).double()


def _rectified(choice: Tensor) -> Tensor:
    return (torch.sigmoid(choice) * STRETCH - (STRETCH - 1) / 2).clamp(0, 1)


class LearnedRounding(Algorithm):
    """Learn for every weight whether to round it up or down."""

    def refine(self, plan: Plan, calibration: Calibration) -> None:
        walk(plan, sample(calibration, ITEMS), lambda sight: reconstruct(sight, learn_rounding))
