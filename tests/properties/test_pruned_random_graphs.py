"""Random graphs pruned at random equal the masked original, before passes and after."""

from __future__ import annotations

import random

import pytest
import torch
from fxpress.errors import InvalidProgram
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.masked import MaskedOriginal
from fxpress.passes.pruning.steps import prune_step, removable_groups
from fxpress.program import Program
from fxpress.testing import trace
from fxpress.verifier import verify
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_layers import convolution, linear
from random_models import RandomModel, Step, is_tame, random_step
from torch import Tensor, nn

CLOSE = 1e-9
"""In float64 nothing but rounding is left, of sums in another order."""
PIPELINES = ("", "default{level=1}", "default")
RNGS = st.randoms(use_true_random=False)


class Head(nn.Module):
    """Sums everything but the batch up into three numbers, so that no axis inside is one of an output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


def random_prunable_model(rng: random.Random, most_steps: int = 7) -> RandomModel:
    """A first layer that makes channels or features, random steps on them, and heads that sum all results up."""
    torch.manual_seed(rng.randrange(1 << 20))
    shape = [rng.choice((1, 2)), rng.choice((3, 4)), *rng.choice(([], [6], [4, 5]))]
    inputs = [torch.randn(shape)]
    values, steps = list(inputs), list[Step]()

    def add(step: Step | None) -> None:
        if step is None:
            return
        with torch.no_grad():
            value = step.function(*(values[i] for i in step.operands))
        if is_tame(value) and value.is_floating_point():
            steps.append(step)
            values.append(value)

    convolutions = len(shape) > 2 and rng.random() < 0.7
    for _ in range(2):
        made = convolution(rng, values[-1], False) if convolutions else linear(rng, values[-1])
        if made is not None:
            add(Step(f"first{made[0]}", (len(values) - 1,), made[1].eval()))
    for _ in range(rng.randint(1, most_steps) * 4):
        if len(steps) < most_steps:
            add(random_step(rng, values))
    used = {i for step in steps for i in step.operands}
    results = []
    for end in [i for i in range(1, len(values)) if i not in used]:
        if values[end].dim() > 1:
            steps.append(Step("head", (end,), Head(values[end][0].numel())))
            results.append(len(inputs) + len(steps) - 1)
    return RandomModel(inputs, steps, results or [0])


def check(program: Program, seed: int, ratio: float) -> int:
    """Prune at random and compare in float64; return how many units went."""
    groups = removable_groups(program)
    config = PruneConfig(ratio=ratio, importance="random", seed=seed)
    step = prune_step(program, groups, config, [], {group.name: group.size for group in groups.removable})
    pruned = PassManager([step]).run(program)
    verify(pruned)
    wanted = MaskedOriginal(program, step.removal).run_float64(*program.example_inputs)
    for found, expected in zip(run_float64(pruned, program.example_inputs), wanted, strict=True):
        error = relative_error(found, expected)
        if not error < CLOSE:
            raise InvalidProgram(f"pruned program is {error:.3g} from the masked original:\n{groups.details()}")
    return sum(len(indices) for indices in step.gone.values())


def settings_of(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        phases=(Phase.explicit, Phase.generate),
    )


def check_model(rng: random.Random) -> None:
    model = random_prunable_model(rng)
    program = PassManager(rng.choice(PIPELINES)).run(trace(model, *model.inputs))
    check(program, rng.randrange(100), rng.choice((0.3, 0.5, 0.8)))


@given(rng=RNGS)
@settings_of(8)
def test_pruned_random_graphs_equal_the_masked_original(rng):
    check_model(rng)


@pytest.mark.slow
@given(rng=RNGS)
@settings_of(300)
def test_many_pruned_random_graphs_equal_the_masked_original(rng):
    check_model(rng)


def test_random_graphs_have_something_to_prune():
    rng, removed = random.Random(0), 0
    for _ in range(10):
        model = random_prunable_model(rng)
        removed += check(trace(model, *model.inputs), 0, 0.5) > 0
    assert removed >= 5
