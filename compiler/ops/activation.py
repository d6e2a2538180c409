"""Activations by name, as epilogues carry them: `relu`, `gelu_tanh`, `leaky_relu(0.01)`, `clamp(0.0,6.0)`."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidInput

ACTIVATIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "none": (0, lambda x: x),
    "relu": (0, torch.relu),
    "relu6": (0, F.relu6),
    "gelu": (0, F.gelu),
    "gelu_tanh": (0, lambda x: F.gelu(x, approximate="tanh")),
    "silu": (0, F.silu),
    "hardswish": (0, F.hardswish),
    "hardsigmoid": (0, F.hardsigmoid),
    "sigmoid": (0, torch.sigmoid),
    "tanh": (0, torch.tanh),
    "softplus": (0, F.softplus),
    "mish": (0, F.mish),
    "elu": (1, lambda x, alpha: F.elu(x, alpha)),
    "leaky_relu": (1, lambda x, slope: F.leaky_relu(x, slope)),
    "clamp": (2, lambda x, low, high: torch.clamp(x, low, high)),
}


def parse_activation(text: str) -> tuple[str, tuple[float, ...]]:
    """Split `leaky_relu(0.01)` into name and parameters. Raises InvalidInput for an unknown name or wrong count."""
    match = re.fullmatch(r"(\w+)(?:\(([^()]*)\))?", text)
    name = match.group(1) if match else text
    if match is None or name not in ACTIVATIONS:
        raise InvalidInput(f"activation must be one of {sorted(ACTIVATIONS)}, not {text!r}")
    try:
        parameters = tuple(float(p) for p in match.group(2).split(",")) if match.group(2) else ()
    except ValueError as error:
        raise InvalidInput(f"activation parameters must be numbers, not {match.group(2)!r}") from error
    count = ACTIVATIONS[name][0]
    if len(parameters) != count:
        raise InvalidInput(f"activation {name} must have {count} parameters, not {len(parameters)}")
    return name, parameters


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply the activation named by `activation`."""
    name, parameters = parse_activation(activation)
    return ACTIVATIONS[name][1](x, *parameters)
