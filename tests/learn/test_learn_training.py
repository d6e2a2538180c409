"""`train` and `train_with` on Programs and modules: they learn, are decided by the seed, leave the rest as it was."""

import json
import math
import random

import fxpress
import numpy as np
import pytest
import torch
from fxpress.errors import Diverged, InvalidInput
from fxpress.learn import Mixup, Noise, TrainConfig, train, train_with
from fxpress.search.quality import Accuracy
from torch import nn

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(240, 1, 6, 6, generator=GENERATOR)
Y = (X[:, 0, :3].sum((1, 2)) > X[:, 0, 3:].sum((1, 2))).long()
BATCHES = [(X[i : i + 24], Y[i : i + 24]) for i in range(0, 192, 24)]
TEST = [(X[192:], Y[192:])]
CONFIG = TrainConfig(epochs=6, learning_rate=0.02)


def net(seed=0):
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 2)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def program():
    return fxpress.capture(net().eval(), (X[:1],))


@pytest.fixture(scope="module")
def integers(program):
    return fxpress.quantize(program, calibration=[(x[None],) for x in X[:32]])


def numbers(model):
    return model.constants if isinstance(model, fxpress.Program) else model.state_dict()


def same(a, b):
    first, second = numbers(a), numbers(b)
    return first.keys() == second.keys() and all(torch.equal(x, second[name]) for name, x in first.items())


@pytest.mark.parametrize("kind", ["module", "program", "integers"])
def test_models_of_every_kind_learn(kind, request):
    model = net() if kind == "module" else request.getfixturevalue(kind)
    before = {name: x.clone() for name, x in numbers(model).items()}
    trained = train(model, BATCHES, CONFIG, evaluate=Accuracy(TEST))
    assert type(trained.model) is type(model)
    assert all(torch.equal(x, before[name]) for name, x in numbers(model).items())
    assert [point.epoch for point in trained.curve] == list(range(1, 7))
    assert trained.curve[-1].loss < trained.curve[0].loss
    assert trained.quality == max(point.quality for point in trained.curve) > 0.85
    run = trained.model if kind == "module" else trained.model.run
    hits = [int(run(x[None]).argmax(1)) == int(y) for x, y in zip(X[192:], Y[192:], strict=True)]
    assert np.mean(hits) == pytest.approx(trained.quality)  # what is returned is what was evaluated


def test_the_seed_decides():
    config = TrainConfig(epochs=2, augment=(Mixup(), Noise()), ema=0.9)
    torch.manual_seed(1)
    first = train(net(), BATCHES, config)
    torch.manual_seed(2)
    np.random.seed(5)
    again = train(net(), BATCHES, config)
    other = train(net(), BATCHES, TrainConfig(epochs=2, augment=(Mixup(), Noise()), ema=0.9, seed=1))
    assert same(first.model, again.model)
    assert [point.loss for point in first.curve] == [point.loss for point in again.curve]
    assert not same(first.model, other.model)


def test_random_states_and_threads_stay_as_they_were():
    model = net()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state(), torch.get_num_threads()
    seen = []
    train(
        model,
        BATCHES,
        TrainConfig(steps=2),
        evaluate=lambda f: seen.append(torch.get_num_threads()) or random.random(),
        threads=2,
    )
    assert set(seen) == {2}
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.get_num_threads() == before[3]


def test_a_random_evaluation_is_decided_by_the_seed_too():
    found = [train(net(), BATCHES, TrainConfig(epochs=2), evaluate=lambda f: float(torch.rand(()))) for _ in range(2)]
    assert [p.quality for p in found[0].curve] == [p.quality for p in found[1].curve]


def test_the_first_step_is_that_of_the_optimiser():
    """Warm-up, decay of weights but not of biases, clipping: against PyTorch's own SGD on the same gradient."""
    model, (x, y) = nn.Linear(2, 2), (torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1]))
    config = TrainConfig(
        steps=4,
        epochs=9,
        optimizer="sgd",
        momentum=0.0,
        learning_rate=0.5,
        weight_decay=0.1,
        warmup=0.5,
        clip_norm=0.01,
    )
    nn.functional.cross_entropy(model(x), y).backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
    assert norm > 0.01
    rate = 0.5 / 3
    weight = model.weight - rate * (model.weight.grad * 0.01 / norm + 0.1 * model.weight)
    bias = model.bias - rate * model.bias.grad * 0.01 / norm
    states = []

    def loss(output, target):
        return nn.functional.cross_entropy(output, target)

    class Spied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = model

        def forward(self, x):
            if self.training:
                states.append([p.detach().clone() for p in self.layer.parameters()])
            return self.layer(x)

    trained = train(Spied(), [(x, y)], config, loss=loss)
    assert len(states) == trained.step == 4
    torch.testing.assert_close(states[1][0], weight.detach(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(states[1][1], bias.detach(), rtol=1e-4, atol=1e-7)


def test_the_best_weights_are_returned_or_the_last():
    said = [0.1, 0.9, 0.2]
    for keep, step in (("best", 16), ("last", 24)):
        answers = iter(said)
        config = TrainConfig(epochs=3, keep=keep)
        trained = train(net(), BATCHES, config, evaluate=lambda f, answers=answers: next(answers))
        assert (trained.step, trained.quality) == (step, 0.9 if keep == "best" else 0.2)
        assert trained.stopped == "finished"
        document = json.loads(json.dumps(trained.to_json()))
        assert TrainConfig.from_json(document["config"]) == config
        assert [point["quality"] for point in document["curve"]] == said
    two = train(net(), BATCHES, TrainConfig(epochs=3, steps=16))
    assert two.step == 16
    assert [point.step for point in two.curve] == [8, 16]


def test_patience_stops_early():
    answers = iter([0.1, 0.5, 0.4, 0.5, 0.9])
    trained = train(net(), BATCHES, TrainConfig(epochs=9, patience=2), evaluate=lambda f: next(answers))
    assert trained.stopped == "patience"
    assert len(trained.curve) == 4
    assert trained.step == 32  # of equals the latest


def test_gradients_may_be_off_outside():
    with torch.no_grad():
        trained = train(nn.Linear(2, 2, bias=False), [(torch.ones(1, 2), torch.tensor([1]))], TrainConfig(epochs=2))
    assert trained.curve[1].loss < trained.curve[0].loss


def test_progress_is_shown():
    seen = []
    train(net(), BATCHES, TrainConfig(epochs=1), evaluate=lambda f: 0.0, progress=seen.append)
    assert seen[0] == "train: prepare"
    assert seen[-2].startswith("train: step 8 of 8, loss 0.")
    assert seen[-1] == "evaluate: epoch 1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluate": lambda f: math.nan}, "evaluate must return a finite number, not nan;"),
        ({"evaluate": lambda f: "good"}, "evaluate must return a number or Scores, not 'good'"),
        ({"config": 0.1}, "config must be a TrainConfig, not float$"),
        ({"config": TrainConfig(patience=1)}, "patience must be None without evaluate=, which it waits for, not 1$"),
        ({"threads": 0}, "threads must be an integer of at least 1 or None, not 0$"),
        ({"loss": lambda y, t: y}, r"loss must return a tensor with one number, not \[24, 2\]"),
        ({"loss": lambda y, t: 0.5}, "loss must return a tensor with one number, not float"),
        ({"loss": lambda y, t: y.detach().sum()}, "loss must depend on the outputs, but what it returned has no"),
        ({"loss": lambda y, t: y.sum(), "config": TrainConfig(label_smoothing=0.1)},
         "label_smoothing must be 0 with a loss= of your own, not 0.1$"),
        ({"batches": [(X, Y.bool())]}, "target must be integers .* not torch.bool; .*\nin batch 0 of epoch 1, step 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        train(net(), options.pop("batches", BATCHES), **options)


def test_what_evaluate_raises_is_raised():
    def broken(f):
        raise KeyError("no such file")

    with pytest.raises(KeyError, match="no such file"):
        train(net(), BATCHES, evaluate=broken)


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(InvalidInput, match=r"^model must be a Program or a torch.nn.Module, not function$"):
        train(lambda x: x, BATCHES)
    with pytest.raises(InvalidInput, match=r"^model must have parameters to train, but it has none"):
        train(nn.ReLU(), BATCHES)


def test_divergence_names_the_step_and_the_remedy():
    losses = iter([1.0, 1.0, math.nan])
    message = r"^loss must be finite, not target nan at step 3 \(epoch 1, learning rate .*; lower learning_rate"
    with pytest.raises(Diverged, match=message):
        train(net(), BATCHES, TrainConfig(epochs=1), loss=lambda y, t: y.sum() * next(losses))
    huge = TrainConfig(epochs=1, optimizer="sgd", learning_rate=1e30, warmup=0.0, momentum=0.0)
    with pytest.raises(Diverged, match=r"^(loss|.*weight|.*bias) must (be|hold) finite"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), BATCHES, huge)


def test_data_that_is_not_finite_is_named():
    x = X[:24].clone()
    x[3, 0, 1, 1] = math.inf
    with pytest.raises(
        InvalidInput, match=r"^input 0 must hold finite numbers, not NaN or infinity at step 2 .*mend the"
    ):
        train(net(), [BATCHES[0], (x, Y[:24])], TrainConfig(epochs=1))


def test_users_train_in_their_own_way(program, integers):
    def function(module):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
        for x, y in BATCHES * 6:
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        return module

    for model in (net(), program, integers):
        trained = train_with(model, function)
        assert type(trained) is type(model)
        run = trained if isinstance(model, nn.Module) else trained.run
        assert np.mean([int(run(x[None]).argmax(1)) == int(y) for x, y in zip(X[192:], Y[192:], strict=True)]) > 0.85


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda module: None, InvalidInput, "train must return the trained module, not NoneType; does it lack"),
        (lambda module: nn.Linear(1, 1), InvalidInput, "train must return the trained module, not Linear$"),
        (lambda module: nn.Sequential(module[5]), InvalidInput, "train must return a module with the parameters"),
        (lambda module: [p.data.fill_(math.nan) for p in module.parameters()] and module, Diverged,
         "0.weight must hold finite numbers, not NaN or infinity; lower the learning rate$"),
    ],
)  # fmt: skip
def test_functions_that_do_not_train_are_refused(function, error, message):
    with pytest.raises(error, match=f"^{message}"):
        train_with(net(), function)
