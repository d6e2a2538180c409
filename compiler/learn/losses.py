"""How wrong outputs are where the user does not say: cross-entropy for classes, mean squared error for values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidInput

Loss = Callable[[Any, Any], Tensor]
"""From what the model returns and a target to a tensor with one number, lower being better."""
CLASSES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
IGNORED = -100
"""Items of this class have no loss, as in PyTorch."""


def default_loss(output: Any, target: Any, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy for integer targets, mean squared error for float ones.

    Outputs for classes [n, ...] are [n, classes, ...] or [n, ..., classes]. `smoothing` is the share of the target that
    all classes get alike (Szegedy et al., "Rethinking the Inception Architecture", arXiv:1512.00567). Raises
    InvalidInput for targets that do not fit the outputs.
    """
    if not isinstance(output, Tensor):
        raise InvalidInput(f"loss must be given for a model that returns {type(output).__name__}, not one tensor")
    if not isinstance(target, Tensor):
        raise InvalidInput(f"target must be a tensor, not {type(target).__name__}; give loss= for other targets")
    if target.is_floating_point():
        return _squares(output, target, smoothing)
    if target.dtype not in CLASSES:
        raise InvalidInput(
            f"target must be integers (classes) or floats (values), not {target.dtype}; "
            "convert it, or give loss= for other targets"
        )
    return F.cross_entropy(*_classes(output, target.long()), label_smoothing=smoothing)


def _squares(output: Tensor, target: Tensor, smoothing: float) -> Tensor:
    if smoothing:
        raise InvalidInput(f"label_smoothing must be 0 where targets are floats, not {smoothing}")
    if target.shape != output.shape:
        raise InvalidInput(f"target must be {_shape(output)}, as the outputs are, not {_shape(target)}")
    return F.mse_loss(output, target.to(output.dtype))


def _classes(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs with their classes second, and targets that are among them."""
    if output.dim() < 2 or target.dim() != output.dim() - 1:
        classes_second = classes_last = False
    else:
        classes_second = (output.shape[0], *output.shape[2:]) == target.shape
        classes_last = output.shape[:-1] == target.shape
    if not (classes_second or classes_last):
        raise InvalidInput(
            f"target of classes must be outputs {_shape(output)} without the dim of classes, not {_shape(target)}; "
            "a target of values must be floats"
        )
    if not classes_second:
        output = output.movedim(-1, 1)
    kept = target[target != IGNORED]
    if kept.numel() and not (0 <= int(kept.min()) and int(kept.max()) < output.shape[1]):
        raise InvalidInput(
            f"target must be classes from 0 to {output.shape[1] - 1}, as many as the model has outputs, "
            f"not {int(kept.min())} to {int(kept.max())}"
        )
    return output, target


def _shape(x: Tensor) -> str:
    return str(list(x.shape))
