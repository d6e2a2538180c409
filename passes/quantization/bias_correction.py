"""bias  ->  bias + the mean error that rounding weights and inputs makes in each output channel

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721, section 4.2,
empirically (appendix D): layer after layer, with the inputs that the corrected layers before it give.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...ops import fxpress
from .algorithms import Algorithm
from .calibration import Calibration
from .plan import LayerPlan, Plan
from .walking import LayerSight, sample, walk

ITEMS = 64


def mean_error(wanted: list[Tensor], found: list[Tensor], dim: int) -> Tensor:
    """The mean over all else of wanted - found for each index of `dim`, float64."""
    total = torch.zeros(wanted[0].shape[dim], dtype=torch.float64)
    count = 0
    for one, other in zip(wanted, found, strict=True):
        rows = (one - other).movedim(dim, 0).flatten(1)
        total += rows.double().sum(1)
        count += rows.shape[1]
    return total / count


def correct_bias(sight: LayerSight) -> LayerPlan:
    """The layer with a bias that makes its mean error 0 in every channel.

    A linear layer over sequences stays: their padding would count as much as what is looked at.
    """
    if sight.node.target is fxpress.linear.default and sight.wanted[0].dim() > 2:
        return sight.layer
    error = mean_error(list(sight.wanted), sight.sums, sight.channel_dim)
    return replace(sight.layer, bias=(sight.layer.bias.double() + error).float())


class BiasCorrection(Algorithm):
    """Make the mean error of every output channel 0 on calibration data."""

    def refine(self, plan: Plan, calibration: Calibration) -> None:
        walk(plan, sample(calibration, ITEMS), correct_bias)
