"""What searches rest on: hashes that differ where what was given does, and storage that is of one search."""

from __future__ import annotations

import errno
import functools
import operator
from dataclasses import replace

import fxpress
import numpy as np
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.learn import Mixup, TrainConfig
from fxpress.runtime.container import replaced_file
from fxpress.search.digests import digest_of
from fxpress.search.phases import Phase, Strategy, Task
from fxpress.search.quality import Accuracy
from fxpress.search.ranges import Choice
from fxpress.search.store import StorageFailed, Store
from fxpress.target import Target
from torch import nn

X = torch.arange(8.0).reshape(2, 4)
BATCHES = [(X, torch.tensor([0, 1]))]


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (X, X + 1),
        (X, X.reshape(4, 2)),
        (X, X.double()),
        (X.numpy(), X.numpy() + 1),
        ([X, X], [X]),
        ({"a": X}, {"b": X}),
        (double, triple),
        (functools.partial(double, 1), functools.partial(double, 2)),
        (lambda x: x + 1, lambda x: x + 2),
        (Accuracy(BATCHES), Accuracy(BATCHES, top=2)),
        (TrainConfig(augment=(Mixup(alpha=0.2),)), TrainConfig(augment=(Mixup(alpha=0.3),))),
        (TrainConfig(augment=(double,)), TrainConfig(augment=(triple,))),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
        (1, True),
        ([1, [2]], [[1], 2]),
        (operator.mul, operator.add),
    ],
)
def test_what_differs_has_other_hashes(one, other):
    assert digest_of(one) == digest_of(one)
    assert digest_of(one) != digest_of(other)


def test_equal_things_have_equal_hashes():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=1)
    before = digest_of(Accuracy(loader))
    list(loader)
    assert digest_of(Accuracy(loader)) == before
    assert digest_of({1, 2, 3}) == digest_of({3, 2, 1})
    assert digest_of(np.array(X.numpy(), order="F")) == digest_of(X.numpy())
    cycle: list = []
    cycle.append(cycle)
    assert digest_of(cycle) == digest_of(cycle)


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    program = fxpress.capture(nn.Linear(4, 2), (X,))
    return Task(program, Target.parse("cpu"), Accuracy(BATCHES), [X], BATCHES)


@pytest.mark.parametrize(
    "changed",
    [
        {"train": [(X, torch.tensor([1, 1]))]},
        {"train": double},
        {"loss": nn.functional.mse_loss},
        {"calibration": [X + 1]},
        {"learning": TrainConfig(epochs=3)},
        {"seed": 1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_was_made_from_other_things_is_kept_apart(task, changed):
    assert replace(task).digest() == task.digest()
    assert replace(task, **changed).digest() != task.digest()


def test_how_models_are_judged_does_not_change_how_they_are_made(task):
    other = replace(task, evaluate=Accuracy(BATCHES, top=2))
    assert other.digest() == task.digest()
    assert other.digests["evaluate"] != task.digests["evaluate"]


def test_hashing_batches_does_not_read_them_away(task):
    generator = torch.Generator().manual_seed(3)
    data = torch.utils.data.TensorDataset(X, torch.tensor([0, 1]))
    loader = torch.utils.data.DataLoader(data, shuffle=True, generator=generator)
    state = generator.get_state()
    assert replace(task, train=loader).digest() == replace(task, train=loader).digest()
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches must yield at least one batch an epoch, not none"),
        (iter(BATCHES), "batches must be readable once an epoch"),
        ([X], r"batch 0 must be a pair \(inputs, target\)"),
    ],
    ids=["empty", "iterator", "no pairs"],
)
def test_batches_that_cannot_be_trained_on_are_refused_at_once(task, batches, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        replace(task, train=batches).digest()


def test_storage_is_of_one_search(tmp_path):
    store = Store(tmp_path)
    store.claim({"train": "a", "seed": "0"})
    store.claim({"train": "a", "seed": "0"})
    with pytest.raises(InvalidInput, match=r"^storage must be of the same search, but .* with other seed, train; give"):
        store.claim({"train": "b", "seed": "1"})


def test_strategies_differ_by_what_phases_do():
    phase = Phase("x", double, {"kind": Choice(("a",))})
    strategy = Strategy("s", (phase,))
    assert strategy.digest() == Strategy("s", (phase,), ({},)).digest()
    assert strategy.digest() != Strategy("s", (replace(phase, run=triple),)).digest()
    assert strategy.digest() != Strategy("s", (replace(phase, space={"kind": Choice(("a", "b"))}),)).digest()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left"), StorageFailed),
        (FileNotFoundError(errno.ENOENT, "No such image"), FileNotFoundError),
        (InvalidInput("model must be of another kind"), InvalidInput),
    ],
    ids=["full disk", "the user's own", "the candidate's"],
)
def test_only_a_full_disk_is_the_fault_of_the_storage(tmp_path, error, raised):
    def make():
        with replaced_file(tmp_path / "measured"):
            raise error

    with pytest.raises(raised) as caught:
        Store(tmp_path).program("key", make)
    assert type(caught.value) is raised
    assert not list((tmp_path / "programs").iterdir())
