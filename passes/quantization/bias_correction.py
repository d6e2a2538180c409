"""bias  ->  bias + the mean error that rounding weights and inputs makes in each output channel

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721, section 4.2,
empirically (appendix D): layer after layer, with the inputs that the corrected layers before it give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...ops import fxpress
from .algorithms import Algorithm
from .calibration import Calibration
from .plan import LayerPlan, Plan
from .walking import LayerSight, sample, walk

ITEMS = 64


def mean_error(wanted: Sequence[Tensor], found: Sequence[Tensor], dim: int) -> Tensor:
    """The mean over all else of wanted - found for each index of `dim`, an item a row: [items, channels], float64."""
    return torch.stack(
        [(one - other).movedim(dim, 0).flatten(1).double().mean(1) for one, other in zip(wanted, found, strict=True)]
    )


def certain_part(means: Tensor) -> Tensor:
    """The mean [channels] of samples [items, channels], less where they disagree: all of it is chance in one item."""
    if len(means) < 2:
        return torch.zeros(means.shape[1], dtype=means.dtype)
    mean, doubt = means.mean(0), means.var(0) / len(means)
    return mean * (1 - doubt / mean.square().clamp(min=1e-300)).clamp(min=0)


def has_padding(sight: LayerSight) -> bool:
    """Whether the layer may see padding that would count as much as what is looked at: a linear one over sequences."""
    return sight.node.target is fxpress.linear.default and sight.wanted[0].dim() > 2


def correct_bias(sight: LayerSight) -> LayerPlan:
    """The layer with a bias that takes up its mean error in every channel, as far as the items agree on it."""
    if has_padding(sight):
        return sight.layer
    error = certain_part(mean_error(sight.wanted, sight.sums, sight.channel_dim))
    return replace(sight.layer, bias=(sight.layer.bias.double() + error).float())


class BiasCorrection(Algorithm):
    """Take the mean error of every output channel on calibration data into the bias."""

    def refine(self, plan: Plan, calibration: Calibration) -> None:
        walk(plan, sample(calibration, ITEMS), correct_bias)
