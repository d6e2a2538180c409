"""The phases of the strategies: what they do to a small network, and what they leave out where there is nothing."""

from __future__ import annotations

from dataclasses import replace

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.learn import Mixup, TrainConfig
from fxpress.search.phases import Phase, Strategy, Task
from fxpress.search.ranges import Choice, Range
from fxpress.search.strategies import (
    CHEAPEN,
    DEEPEN,
    FACTOR,
    GROW,
    IMPROVE,
    PRUNE,
    QUANTIZE,
    SHORTEN,
    SPARSIFY,
    STRATEGIES,
)
from fxpress.target import Target
from torch import nn

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(X[:4], torch.tensor([0, 1, 2, 3])), (X[4:], torch.tensor([1, 1, 0, 2]))]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.begin = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.end = nn.Linear(16, 4)

    def forward(self, x):
        x = nn.functional.gelu(self.begin(x))
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.end(x.mean((2, 3)))


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    program = fxpress.capture(Residual().eval(), (X,))
    return Task(program, Target.parse("cpu"), lambda f: 1.0, [X], BATCHES)


def size(program):
    return sum(x.numel() for x in program.constants.values())


def sums(program):
    return sum(node.target is torch.ops.aten.add.Tensor for node in program.nodes)


def told(phase, **options):
    strategy = Strategy("one", (phase,))
    return phase.told(strategy.canonical({f"{phase.name}.{name}": value for name, value in options.items()}))


@pytest.mark.parametrize(
    ("phase", "options", "holds"),
    [
        (PRUNE, {"ratio": 0.5}, lambda old, new: size(new) < size(old)),
        (SHORTEN, {"blocks": 0.5}, lambda old, new: sums(new) == sums(old) - 1),
        (FACTOR, {"ratio": 0.5}, lambda old, new: size(new) < size(old)),
        (CHEAPEN, {"gelu": "relu"}, lambda old, new: "gelu" not in new.text()),
        (SPARSIFY, {"pattern": "elements", "ratio": 0.5}, lambda old, new: "zero-weights" in new.history[-1].name),
        (GROW, {"width": 2.0}, lambda old, new: size(new) > 2 * size(old)),
        (DEEPEN, {"times": 1}, lambda old, new: size(new) > size(old)),
    ],
    ids=lambda value: value.name if isinstance(value, Phase) else None,
)
def test_phases_change_the_model(task, phase, options, holds):
    changed = phase.run(task.original, told(phase, **options), task)
    assert holds(task.original, changed)
    assert changed.run(X).shape == (8, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"distill": False, "label_smoothing": 0.1, "ema": 0.9},
        {"temperature": 2.0, "hints": "features", "augment": "mixup", "mixup": 0.4},
        {"hints": "attention", "augment": "cutmix"},
        {"augment": "crop", "crop": 1},
        {"augment": "noise", "distill": False},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()),
)
def test_trainings_use_what_they_are_told(task, options):
    phase = IMPROVE.fit(task)
    pruned = PRUNE.run(task.original, told(PRUNE, ratio=0.5), task)
    trained = phase.run(pruned, told(phase, epochs=1, **options), task)
    assert trained.history[-1].rewrites == ("train: 2 steps",)
    assert not torch.equal(trained.run(X), pruned.run(X))
    again = phase.run(pruned, told(phase, epochs=1, **options), task)
    assert torch.equal(again.run(X), trained.run(X))


def test_options_for_other_values_are_not_told():
    assert told(SPARSIFY, pattern="2:4", ratio=0.9) == {"pattern": "2:4"}
    assert told(SPARSIFY, pattern="blocks") == {"pattern": "blocks", "ratio": 0.75}
    assert "temperature" not in told(IMPROVE, epochs=1, distill=False, temperature=2.0)
    assert told(IMPROVE, epochs=1, augment="mixup")["mixup"] == 0.2
    assert set(told(QUANTIZE, config="int8")) == {"config", "widths"}
    without = replace(SPARSIFY, space={"ratio": Range(0.5, 0.9)}, off={})
    assert told(without, ratio=0.6) == {"ratio": 0.6}


def test_phases_that_have_nothing_to_do_are_left_out(task):
    torch.manual_seed(0)
    plain = fxpress.capture(nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2)).eval(), (torch.randn(2, 4),))
    strategy, notes = STRATEGIES["shrink-and-improve"].fit(replace(task, original=plain, train=None))
    assert [phase.name for phase in strategy.phases] == ["prune", "factor", "cheapen", "sparsify", "quantize"]
    assert set(strategy.phases[2].space) == {"silu"}
    assert "shorten: left out, the model has no residual branches, x + f(x)" in notes
    assert "improve: left out, needs train=" in notes
    relu = fxpress.capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), (torch.randn(2, 4),))
    assert CHEAPEN.fit(replace(task, original=relu)) == "the model has none of gelu, sigmoid, silu, tanh"


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_models_that_nothing_trains_are_cut_less_to_begin_with(task, strategy):
    ratios = {}
    for name, given in (("trained", task), ("untrained", replace(task, train=None))):
        fitted, _ = strategy.fit(given)
        ratios[name] = [fitted.complete(candidate)["prune.ratio"] for candidate in fitted.first]
    assert 0 < max(ratios["untrained"]) < max(ratios["trained"])


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_first_candidates_suit_a_training_of_the_user(task, strategy):
    fitted, _ = strategy.fit(replace(task, train=lambda module: module))
    assert {fitted.complete(candidate)["improve.epochs"] for candidate in fitted.first} >= {1}
    wrong = replace(strategy, first=({"improve.epochs": 10_000},)).fit(task)[0]
    with pytest.raises(InvalidInput, match=r"^option improve.epochs must be one of Range\(.*, not 10000$"):
        wrong.complete(wrong.first[0])


def test_trainings_offer_what_suits_the_data(task):
    assert set(IMPROVE.fit(task).space) == set(IMPROVE.space)
    values = [(inputs, torch.randn(4, 4)) for inputs, _ in BATCHES]
    assert {"temperature", "label_smoothing"} & set(IMPROVE.fit(replace(task, train=values)).space) == set()
    assert "label_smoothing" not in IMPROVE.fit(replace(task, loss=nn.functional.mse_loss)).space
    decided = IMPROVE.fit(replace(task, learning=TrainConfig(augment=(Mixup(),), ema=0.99)))
    assert set(decided.space) == {"epochs", "learning_rate", "label_smoothing", "distill", "temperature", "hints"}
    by_function = IMPROVE.fit(replace(task, train=lambda module: module))
    assert by_function.space == {"epochs": Range(1, 1)}
    vectors = fxpress.capture(nn.Linear(4, 2).eval(), (torch.randn(2, 4),))
    rows = [(torch.randn(2, 4), torch.tensor([0, 1]))]
    of_rows = IMPROVE.fit(replace(task, original=vectors, train=rows))
    assert of_rows.space["augment"] == Choice(("none", "mixup", "noise"))
    assert "cutmix" not in of_rows.space


def test_a_budget_of_noise_keeps_layers_in_float32(task):
    torch.manual_seed(0)
    rows = torch.randn(8, 64)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)).eval()
    predicted = replace(
        task, original=fxpress.capture(model, (rows,)), calibration=[rows], target=Target.parse("cpu{isa=avx2}")
    )
    options = told(QUANTIZE, config="int8", widths="budget", min_sqnr=40.0)
    noise = QUANTIZE.run(predicted.original, options, predicted).run(rows) - model(rows)
    assert 10 * torch.log10(model(rows).square().sum() / noise.square().sum().clamp_min(1e-12)) > 39


def test_hints_need_layers_that_the_teacher_has(task):
    other = fxpress.capture(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval(), (X,))
    with pytest.raises(InvalidInput, match=r"^hints must be 'none' for a model that has no layers left"):
        IMPROVE.run(other, told(IMPROVE, epochs=1, hints="features"), task)


def test_a_study_asks_only_for_what_counts(tmp_path, task):
    study_module = pytest.importorskip("fxpress.search.study")
    pytest.importorskip("optuna", reason="needs optuna")
    from fxpress.search.objectives import objectives_of

    strategy, _ = STRATEGIES["grow-improve-and-shrink"].fit(task)
    study = study_module.Study(tmp_path / "journal", strategy, objectives_of(("quality", "size")), strategy.first, 0)
    asked = []
    for count in range(14):
        number, candidate = study.ask()
        asked.append(strategy.canonical(candidate))
        study.tell(number, [count % 7 / 7, 100.0 - count] if count % 5 else None)
        on = {key.split(".")[0] for key in candidate}
        for phase in strategy.phases:
            is_off = phase.is_off(phase.options(asked[-1]))
            assert is_off or phase.name in on
            if not is_off:
                assert set(phase.options(candidate)) == set(phase.told(asked[-1]))
    assert asked[: len(strategy.first)] == [strategy.canonical(candidate) for candidate in strategy.first]
    assert any("deepen" in key and value for each in asked for key, value in each.items())
