"""What changes the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .config import TrainConfig


def optimizer_of(modules: Iterable[nn.Module], config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or AdamW (Loshchilov & Hutter, arXiv:1711.05101), for all parameters.

    Biases and norms do not decay (He et al., "Bag of Tricks for Image Classification", arXiv:1812.01187, 2.3).
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.learning_rate)
