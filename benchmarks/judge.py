"""Whether a competitor computes what the model says: its error against float64 beside PyTorch float32's own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_leaves, tree_map

Array = NDArray[Any]

EPSILON = float(np.finfo(np.float32).eps)
FACTOR = 2.0  # how much larger than PyTorch float32's own error an error may be
EPSILONS = 4.0  # an error below this many float32 epsilons is always right


@dataclass(frozen=True)
class Reference:
    """The outputs of a model in float64 and, for each of them, PyTorch float32's error."""

    outputs: tuple[Array, ...]
    errors: tuple[float, ...]

    def limits(self) -> tuple[float, ...]:
        return tuple(max(FACTOR * error, EPSILONS * EPSILON) for error in self.errors)


@dataclass(frozen=True)
class Verdict:
    """The error of each output and why the competitor is wrong, or None if it is right."""

    errors: tuple[float, ...]
    reason: str | None


def relative_error(found: Array, expected: Array) -> float:
    """The norm of the difference relative to the norm of `expected`; infinite where NaNs and infinities differ."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return float("inf")
    difference = float(np.linalg.norm(found[finite] - expected[finite]))
    norm = float(np.linalg.norm(expected[finite]))
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / norm


def judge(found: Sequence[Array], reference: Reference) -> Verdict:
    """Compares outputs with the reference: the same count and shapes, each error within its limit."""
    if len(found) != len(reference.outputs):
        return Verdict((), f"gave {len(found)} outputs, not {len(reference.outputs)}")
    errors = tuple(map(relative_error, found, reference.outputs))
    for i, (error, limit) in enumerate(zip(errors, reference.limits(), strict=True)):
        if error > limit:
            return Verdict(errors, f"output {i} is {error:.1e} off, more than {limit:.1e}")
    return Verdict(errors, None)


def arrays(outputs: object) -> list[Array]:
    """The tensors and arrays in a nested output, in order, as numpy arrays."""
    leaves = [leaf for leaf in tree_leaves(outputs) if leaf is not None]
    return [leaf.detach().numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf) for leaf in leaves]


@torch.inference_mode()
def reference(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reference:
    """Runs the model in float64 and in float32."""
    single = arrays(module(*args, **kwargs))
    double_args, double_kwargs = tree_map(_double, (args, kwargs))
    double = arrays(copy.deepcopy(module).double()(*double_args, **double_kwargs))
    return Reference(tuple(double), tuple(map(relative_error, single, double)))


def _double(value: object) -> object:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
