"""Random graphs keep their numbers: through capture, every pass, every default pipeline, and the TVM backend."""

from __future__ import annotations

import random

import fxpress
import numpy as np
import pytest
import torch
from fxpress.pass_manager import PassManager
from fxpress.pipeline import parse_pipeline
from fxpress.program import Program
from fxpress.registry import entries
from fxpress.rewriter import Pass
from fxpress.testing import trace
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_models import STEPS, RandomModel, random_model
from rounding import judge

LEVELS = (0, 1, 2)
TARGETS = ("cpu", "cpu{isa=avx2}")
PASSES = sorted(entries("passes"))
MODELS = st.randoms(use_true_random=False).map(random_model)
EASY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def examples(count: int) -> settings:
    """The same `count` examples in every run. Not shrunk: `RandomModel.with_results` cuts one down in less time."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=EASY,
        phases=(Phase.explicit, Phase.generate),
    )


def run_pass(p: Pass, before: Program, original: Program) -> Program:
    """Run a pass with every check on: same bits if it is exact, numbers, and a second run that changes nothing."""
    after = PassManager(p, numerics=p.accuracy == "exact").run(before)
    if after.history[-1].changed:
        assert not judge(original, after.run_flat(*original.example_inputs)), f"after {p}"
        assert PassManager(p).run(after).text() == after.text(), f"{p} changes its own result"
    return after


def run_tvm(program: Program, level: int, target: str) -> list[torch.Tensor]:
    """The artifact's results. Level 0 leaves ops in spellings that have no kernel: these run in PyTorch."""
    fallback = "torch" if level == 0 else None
    artifact = fxpress.compile(
        program, pipeline=f"default{{level={level}}}", target=target, fallback=fallback, self_test=False
    )
    return [torch.from_numpy(np.asarray(x)) for x in artifact.run_flat(*program.example_inputs)]


def check_reference(model: RandomModel) -> None:
    program = trace(model, *model.inputs)
    with torch.no_grad():
        expected = model(*model.inputs)
    assert not judge(program, expected), "capture"
    for name in PASSES:
        (p,) = parse_pipeline(name)
        if p.accuracy != "lossy":  # those change numbers on purpose: their own tests judge by how much
            run_pass(p, program, program)
    for level in LEVELS:
        current = program
        for p in parse_pipeline(f"default{{level={level}}}"):
            current = run_pass(p, current, program)
        assert not judge(program, current.run_flat(*program.example_inputs)), f"level {level}"


def check_tvm(model: RandomModel, level: int, target: str) -> None:
    program = trace(model, *model.inputs)
    assert not judge(program, run_tvm(program, level, target))


@examples(30)
@given(MODELS)
def test_every_pass_keeps_the_numbers(model):
    check_reference(model)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_every_pass_keeps_the_numbers_of_many(seed):
    for number in range(20):
        check_reference(random_model(random.Random(1000 * seed + number), most_steps=10))


@examples(12)
@given(MODELS, st.sampled_from(LEVELS), st.sampled_from(TARGETS))
def test_tvm_keeps_the_numbers(model, level, target):
    check_tvm(model, level, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(5))
def test_tvm_keeps_the_numbers_of_many(seed, level, target):
    for number in range(20):
        check_tvm(random_model(random.Random(1000 * seed + number)), level, target)


def test_models_are_varied():
    """All kinds of steps occur, sizes of one and primes, several results, several inputs."""
    models = [random_model(random.Random(seed)) for seed in range(400)]
    kinds = {step.text.split("[")[0] for model in models for step in model.steps}
    assert len(kinds) > 0.9 * len(STEPS) > 20, set(STEPS) - kinds
    assert {len(model.results) for model in models} == {1, 2, 3}
    assert {len(model.inputs) for model in models} == {1, 2, 3}
    assert {1, 7, 13, 17} <= {size for model in models for x in model.inputs for size in x.shape}


def test_a_model_can_be_cut_down():
    model = random_model(random.Random(3), most_steps=10)
    for number in range(len(model.inputs), len(model.inputs) + len(model.steps)):
        part = model.with_results(number)
        whole = RandomModel(model.inputs, model.steps, [number])
        assert torch.equal(part(*model.inputs)[0], whole(*model.inputs)[0])


def test_judge_sees_a_small_mistake():
    program = trace(lambda x: (x * 3).softmax(-1), torch.randn(5, 7))
    (right,) = program.run_flat(*program.example_inputs)
    assert judge(program, [right]) == []
    assert judge(program, [right * (1 + 1e-5)])
    assert judge(program, [right.roll(1)])
    assert judge(program, [right.double()])


@pytest.mark.parametrize("level", [1, 2])
def test_graphs_that_failed_once(level):
    """A norm of one channel leaves no loop over channels; at level 1 a batch norm has no convolution to go into."""
    for module in (torch.nn.GroupNorm(1, 1), torch.nn.BatchNorm2d(1)):
        program = trace(module, torch.randn(13, 1, 17, 5))
        assert not judge(program, run_tvm(program, level, "cpu{isa=avx2}"))
