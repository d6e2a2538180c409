"""Sample inputs and expected outputs: the self-test that travels with an artifact.

Large inputs are kept as a recipe (seed and range) and large outputs as every n-th element, so that samples stay small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidArtifact
from .structure import TensorSpec
from .tensor_file import Array, load_tensors, numpy_dtype, save_tensors

_INPUT_BUDGET = 96 << 10  # bytes; an input that does not fit is generated
_OUTPUT_BUDGET = 96 << 10  # bytes for all outputs together


@dataclass(frozen=True)
class Recipe:
    """An input made of uniform numbers from `low` to `high`, the same ones everywhere for the same `seed`."""

    seed: int
    low: float
    high: float

    def make(self, spec: TensorSpec) -> Array:
        """The input, of `spec`'s dtype and shape."""
        count = int(np.prod(spec.shape, dtype=np.int64))
        dtype = numpy_dtype(spec.dtype)
        # raw bits: numpy promises the stream of a bit generator, not that of its distributions
        bits = np.random.PCG64(self.seed).random_raw(count) >> np.uint64(11)
        if dtype.kind in "iub":
            values: Array = int(self.low) + (bits % np.uint64(int(self.high) - int(self.low) + 1)).astype(np.int64)
        else:
            values = self.low + (self.high - self.low) * (bits * 2.0**-53)
        return values.astype(dtype).reshape(spec.shape)


@dataclass(frozen=True)
class SelfTest:
    """Outcome of a self-test: for each output its relative error and the largest allowed one."""

    errors: tuple[float, ...]
    tolerances: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether no output is further off than allowed."""
        return all(error <= limit for error, limit in zip(self.errors, self.tolerances, strict=True))

    def describe(self, specs: Sequence[TensorSpec]) -> str:
        """The outputs that are too far off."""
        return "; ".join(
            f"{spec.name} has a relative error of {error:.2g}, allowed is {limit:.2g}"
            for spec, error, limit in zip(specs, self.errors, self.tolerances, strict=True)
            if not error <= limit
        )


@dataclass(frozen=True)
class Samples:
    """Inputs (arrays, or recipes for them) and, for each output, every `steps[i]`-th of its elements, flattened."""

    inputs: tuple[Array | Recipe, ...]
    outputs: tuple[Array, ...]
    steps: tuple[int, ...]

    @classmethod
    def of(cls, inputs: Sequence[Array | Recipe], outputs: Sequence[Array]) -> Samples:
        """Samples that expect `outputs` (whole) for `inputs`, as `choose_inputs` returned them."""
        budget = _OUTPUT_BUDGET // max(1, len(outputs))
        steps = tuple(max(1, -(-output.nbytes // budget)) for output in outputs)
        parts = tuple(_every(output, step) for output, step in zip(outputs, steps, strict=True))
        return cls(tuple(inputs), parts, steps)

    def to_json(self) -> dict[str, Any]:
        recipes = [x.__dict__ if isinstance(x, Recipe) else None for x in self.inputs]
        return {"inputs": recipes, "steps": list(self.steps)}

    def to_bytes(self) -> bytes:
        named = {f"input.{i}": x for i, x in enumerate(self.inputs) if not isinstance(x, Recipe)}
        return save_tensors(named | {f"output.{i}": x for i, x in enumerate(self.outputs)})

    @classmethod
    def load(cls, data: bytes, description: Mapping[str, Any]) -> Samples:
        """Raises InvalidArtifact when data and description do not come from `to_bytes` and `to_json`."""
        tensors = load_tensors(data)
        try:
            inputs = tuple(
                tensors[f"input.{i}"] if recipe is None else Recipe(**recipe)
                for i, recipe in enumerate(description["inputs"])
            )
            steps = tuple(int(step) for step in description["steps"])
            return cls(inputs, tuple(tensors[f"output.{i}"] for i in range(len(steps))), steps)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArtifact(f"samples must be described by inputs and steps ({error!r})") from error

    def make_inputs(self, specs: Sequence[TensorSpec]) -> list[Array]:
        """The sample inputs as arrays."""
        return make_inputs(self.inputs, specs)

    def errors(self, outputs: Sequence[Array]) -> list[float]:
        """For each output the norm of its difference from what is expected, relative to the expected norm.

        Infinite when one has NaN or infinity where the other has not, or, for integers, when any element differs.
        """
        return [
            relative_error(_every(output, step), expected)
            for output, step, expected in zip(outputs, self.steps, self.outputs, strict=True)
        ]


def choose_inputs(specs: Sequence[TensorSpec], examples: Sequence[Array]) -> list[Array | Recipe]:
    """The examples themselves when small; for a large one a recipe with the example's range."""
    budget = _INPUT_BUDGET // max(1, len(specs))
    chosen: list[Array | Recipe] = []
    for index, (spec, example) in enumerate(zip(specs, examples, strict=True)):
        if example.nbytes <= budget or spec.dtype == "bool":
            chosen.append(example)
            continue
        finite = example[np.isfinite(example)] if example.dtype.kind == "f" else example
        low, high = (finite.min().item(), finite.max().item()) if finite.size else (-1.0, 1.0)
        chosen.append(Recipe(index, low, high))
    return chosen


def make_inputs(chosen: Sequence[Array | Recipe], specs: Sequence[TensorSpec]) -> list[Array]:
    """The arrays that `choose_inputs` chose."""
    return [x.make(spec) if isinstance(x, Recipe) else x for x, spec in zip(chosen, specs, strict=True)]


def relative_error(found: Array, expected: Array) -> float:
    """Norm of the difference relative to the norm of `expected`; infinite where non-finite elements disagree."""
    if found.dtype.kind in "iub":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    a, b = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if a.shape != b.shape or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    difference, norm = np.linalg.norm(a[finite] - b[finite]), np.linalg.norm(b[finite])
    if not np.isfinite(difference):
        return float("inf")
    return float(difference / norm) if norm else float(difference)


def _every(output: Array, step: int) -> Array:
    return np.ascontiguousarray(output).reshape(-1)[::step]
