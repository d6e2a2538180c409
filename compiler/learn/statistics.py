"""Statistics of batch norms for weights that no training step used, such as an average of weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batches import Batch, Use

BATCHES = 32
"""From so many of the training's first batches statistics are estimated."""


def estimate_statistics(
    module: nn.Module, norms: Iterable[Any], read: Callable[[int, Use], None], device: torch.device
) -> None:
    """Make the statistics of batch norms those of data: the mean of each batch's, every batch counting the same.

    "Precise" batch norm of Wu & Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576. Everything else is in
    evaluation mode meanwhile, and inputs are not augmented: statistics are for use. `norms` have a `momentum`,
    `read(count, use)` reads batches.
    """
    norms = list(norms)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.train()
    numbers = itertools.count(1)

    def take_in(batch: Batch) -> None:
        share = 1 / next(numbers)
        for norm in norms:
            norm.momentum = share
        batch.to(device).call(module)

    with torch.no_grad():
        read(BATCHES, take_in)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms in a module that keep statistics."""
    return [x for x in module.modules() if isinstance(x, _BatchNorm) and x.track_running_stats]
