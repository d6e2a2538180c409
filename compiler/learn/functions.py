"""A training function of the user's in place of `train`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..errors import InvalidInput
from .programs import M, as_model, as_module
from .randomness import randomness

TrainFunction = Callable[[nn.Module], nn.Module]
"""Takes a module that computes what a model does and is its own to change, and returns it, or a copy, trained.

Any optimiser and loop work on it. Batches may have another size than the capture's; the forward pass of a module of a
quantised Program computes its integers. It runs again for every candidate of a search, with the same random numbers.
"""


def train_with(model: M, function: TrainFunction, *, seed: int = 0) -> M:
    """Train a Program or a module by a function of the user's; returns a model of the same kind.

    Inside, PyTorch, numpy and Python draw random numbers of `seed`, and afterwards what they would have drawn. Raises
    InvalidInput when the function returns anything but the module or one with the same parameters; Diverged, which is
    one, where a parameter is NaN or infinite; what the function raises.
    """
    module = as_module(model)
    wanted = _shapes(module)
    module.train()
    with randomness(seed, "function"), torch.enable_grad():
        trained = function(module)
    if not isinstance(trained, type(module)):
        hint = "; does it lack a return?" if trained is None else ""
        raise InvalidInput(f"train must return the trained module, not {type(trained).__name__}{hint}")
    if _shapes(trained) != wanted:
        raise InvalidInput("train must return a module with the parameters that it was given, of the same shapes")
    return as_model(trained, model)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in module.named_parameters()}
