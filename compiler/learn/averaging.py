"""The average of a model's weights over its training, which is often better than the last of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def decay_in(step: int, decay: float) -> float:
    """What the average keeps of itself in `step`, from 0: less at first, so that the start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """An exponential moving average of parameters: average = decay * average + (1 - decay) * parameter.

    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992, with the decay and its start of
    Tan & Le, "EfficientNet", arXiv:1905.11946. Statistics of batch norms are no weights: those that were right for the
    weights of each step are not right for their average, so they are estimated anew (`statistics.py`).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    def update(self, module: nn.Module, step: int) -> None:
        """Take in the parameters after `step`."""
        keep = decay_in(step, self.decay)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                self.values[name].mul_(keep).add_(parameter, alpha=1 - keep)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from an average that was kept."""
        for name, value in self.values.items():
            value.copy_(values[name])

    def write_to(self, module: nn.Module) -> None:
        """Give the module the average for its parameters."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.values[name])
