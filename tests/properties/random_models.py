"""Random models: a few steps, each an op or a small block whose shapes fit the values made before it.

`random_model(rng)` needs nothing but a `random.Random`; Hypothesis supplies one that it can shrink, a plain seeded one
serves for long hunts. Values are kept small and finite, so that what differs between two runs is rounding.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from random_layers import STEPS
from torch import Tensor, nn

MOST_ELEMENTS = 6000
LARGEST_VALUE = 300.0
SIZES = (1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17)


@dataclass(frozen=True)
class Step:
    """One step: what it is, which values it reads, and what computes it."""

    text: str
    operands: tuple[int, ...]
    function: Callable[..., Tensor]

    def __str__(self) -> str:
        return f"{self.text}({', '.join(f'v{i}' for i in self.operands)})"


class RandomModel(nn.Module):
    """Runs steps in order; `results` says which values it returns. Its repr is a program that one can read."""

    def __init__(self, inputs: Sequence[Tensor], steps: Sequence[Step], results: Sequence[int]) -> None:
        super().__init__()
        self.inputs, self.steps, self.results = tuple(inputs), tuple(steps), tuple(results)
        self.layers = nn.ModuleList(s.function for s in steps if isinstance(s.function, nn.Module))
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = list(inputs)
        for step in self.steps:
            values.append(step.function(*(values[i] for i in step.operands)))
        return tuple(values[i] for i in self.results)

    def with_results(self, *results: int) -> RandomModel:
        """The same model returning other values, without the steps that these do not need."""
        first = len(self.inputs)
        needed = set(results)
        for number in range(first + len(self.steps) - 1, first - 1, -1):
            if number in needed:
                needed.update(self.steps[number - first].operands)
        numbers = {old: old for old in range(first)}
        steps: list[Step] = []
        for number, step in enumerate(self.steps, first):
            if number in needed:
                numbers[number] = first + len(steps)
                steps.append(Step(step.text, tuple(numbers[i] for i in step.operands), step.function))
        return RandomModel(self.inputs, steps, [numbers[i] for i in results])

    def __repr__(self) -> str:
        first = len(self.inputs)
        lines = [f"v{i} = {str(x.dtype)[6:]}{list(x.shape)}" for i, x in enumerate(self.inputs)]
        lines += [f"v{i} = {step}" for i, step in enumerate(self.steps, first)]
        return "\n".join([*lines, f"return {', '.join(f'v{i}' for i in self.results)}"])


def random_model(rng: random.Random, most_steps: int = 8) -> RandomModel:
    """A model of 1 to `most_steps` steps with 1 to 3 inputs (one of them perhaps of integers) and 1 to 3 results."""
    torch.manual_seed(rng.randrange(1 << 20))
    inputs = [random_input(rng) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.2:
        inputs.append(torch.randint(0, 9, random_shape(rng, rng.randint(1, 2), 60)))
    values, steps = list(inputs), list[Step]()
    wanted = rng.randint(1, most_steps)
    for _ in range(6 * wanted):
        if len(steps) == wanted:
            break
        step = random_step(rng, values)
        if step is not None:
            with torch.no_grad():
                value = step.function(*(values[i] for i in step.operands))
            if is_tame(value):
                steps.append(step)
                values.append(value)
    used = {i for step in steps for i in step.operands}
    ends = [i for i in range(len(inputs), len(values)) if i not in used]
    more = rng.sample(range(len(values)), min(len(values), rng.choice((0, 0, 0, 1, 2))))
    return RandomModel(inputs, steps, [*ends, *more][-3:] or [0])


def random_input(rng: random.Random) -> Tensor:
    """A float32 tensor of 1 to 4 dimensions."""
    return torch.randn(random_shape(rng, rng.choice((1, 2, 3, 3, 4, 4)), MOST_ELEMENTS // 4))


def random_shape(rng: random.Random, dims: int, most: int) -> list[int]:
    """Sizes with 1 and primes among them, at most `most` elements."""
    shape: list[int] = []
    for _ in range(dims):
        sizes = [size for size in SIZES if size * math.prod(shape) <= most]
        shape.append(rng.choice(sizes))
    rng.shuffle(shape)
    return shape


def random_step(rng: random.Random, values: Sequence[Tensor]) -> Step | None:
    """A step that fits the values, preferring late ones as operands; None when the drawn kind does not fit."""
    name = rng.choice(sorted(STEPS))
    count, make = STEPS[name]
    start = rng.choice((0, 0, max(0, len(values) - 2), len(values) - 1))
    operands = tuple(rng.randrange(start, len(values)) for _ in range(count))
    made: Any = make(rng, *(values[i] for i in operands))
    if made is None:
        return None
    detail, function = made
    if isinstance(function, nn.Module):
        function.eval()
    return Step(f"{name}{detail}", operands, function)


def is_tame(value: Tensor) -> bool:
    """Whether a value is small enough in every way to go on with."""
    if not 0 < value.numel() <= MOST_ELEMENTS or value.dim() > 5:
        return False
    if not value.is_floating_point():
        return True
    return bool(value.isfinite().all()) and value.abs().max().item() <= LARGEST_VALUE
