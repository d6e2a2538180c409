"""What batches may be, and labels by a teacher."""

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.learn import PseudoLabels, Together, TrainConfig, train
from fxpress.learn.batches import Source
from fxpress.learn.randomness import randomness
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

X, Y = torch.randn(10, 3), torch.arange(10) % 2


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


class Positions:
    def __init__(self):
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        yield X, Y


def test_a_source_without_a_length_is_counted():
    assert Source(DataLoader(Stream(), batch_size=4), 0).length == 3
    assert Source([(X, Y)] * 5, 0).length == 5


def test_inputs_are_what_calls_say():
    for inputs in (X, (X,), [X], {"input": X}):
        (batch,) = Source([(inputs, Y)], 0).epoch(0)
        torch.testing.assert_close(batch.call(nn.Identity() if batch.args else lambda input: input), X)


def test_data_is_told_the_epoch():
    positions = Positions()
    train(nn.Linear(3, 2), positions, TrainConfig(epochs=3))
    assert positions.epochs[-3:] == [0, 1, 2]


def shuffled(loader, epoch):
    with randomness(0, "epoch", epoch):
        return torch.cat([batch.args[0] for batch in Source(loader, 0).epoch(epoch)])


def test_shuffling_follows_seed_and_epoch():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    first, again, second = shuffled(loader, 0), shuffled(loader, 0), shuffled(loader, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_peeking_leaves_generators_as_they_were():
    generator = torch.Generator().manual_seed(3)
    source = Source(DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, generator=generator), 0)
    before = generator.get_state()
    seen = []
    source.peek(2, seen.append)
    assert len(seen) == 2
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches must yield at least one batch an epoch, not none; is the dataset empty[?]$"),
        (DataLoader(TensorDataset(X[:0], Y[:0])), "batches must yield at least one batch an epoch, not none"),
        (X, r"batches must be an iterable of \(inputs, target\), not Tensor$"),
        (((X, Y) for _ in range(3)), "batches must be readable once an epoch, not generator; an iterator can be read"),
        ([X], r"batch 0 must be a pair \(inputs, target\), not Tensor; without a target it is \(inputs, None\)$"),
        ([(X, Y, Y)], r"batch 0 must be a pair \(inputs, target\), not 3 things;"),
        ([("x", Y)], "inputs of batch 0 must be a tuple .* or a tensor, not str$"),
        ([(X, None)], "target must not be None where there is no teacher to learn from; give teacher="),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(batches, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        train(nn.Linear(3, 2), batches)


class Sure(nn.Module):
    """Class 1 where the first number is positive, and the surer the larger it is."""

    def forward(self, x):
        return torch.stack([torch.zeros(len(x)), 5 * x[:, 0]], 1)


POINTS = torch.tensor([[-2.0], [-0.1], [0.1], [3.0], [0.05], [0.0]])


def test_pseudo_labels_are_what_a_teacher_is_sure_of():
    labelled = PseudoLabels([POINTS[:4], (POINTS[4:],)], Sure(), threshold=0.9)
    ((inputs,), classes), *more = labelled
    assert torch.equal(inputs, POINTS[[0, 3]])
    assert torch.equal(classes, torch.tensor([0, 1]))
    assert not more
    assert len(labelled) == 1
    everything = list(PseudoLabels([{"x": POINTS}], Sure()))
    assert torch.equal(everything[0][0]["x"], POINTS)
    assert torch.equal(everything[0][1], torch.tensor([0, 0, 1, 1, 1, 0]))


def test_students_learn_from_pseudo_labels():
    unlabelled = [torch.randn(32, 1, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    config = TrainConfig(epochs=5, learning_rate=0.05)
    student = train(nn.Linear(1, 2), PseudoLabels(unlabelled, Sure(), threshold=0.6), config).model
    assert torch.equal(student(POINTS[[0, 3]]).argmax(1), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PseudoLabels([POINTS], Sure(), threshold=1.0), "threshold must be from 0 to below 1, not 1.0$"),
        (lambda: PseudoLabels(iter([POINTS]), Sure()), "inputs must be readable again, not list_iterator;"),
        (lambda: list(PseudoLabels([POINTS[1:3]], Sure(), threshold=0.9)),
         "teacher must be sure of some inputs, but gives none of 2 a class with probability 0.9; lower threshold=$"),
        (lambda: list(PseudoLabels([POINTS], nn.Identity(), threshold=0.9) and PseudoLabels([POINTS], lambda x: x[0])),
         r"teacher must return one tensor \[n, classes\] to label inputs, not \[1\]$"),
        (lambda: list(PseudoLabels(DataLoader(TensorDataset(X), batch_size=2, shuffle=True), Sure())),
         "inputs must be the same each time they are read, but batch 0 is another .*; do not shuffle them$"),
        (lambda: Together(iter([1])), "parts of Together must be readable again;"),
        (lambda: list(Together([1], [])), "part 1 of Together must yield at least one batch, not none$"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_made_are_refused(make, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        make()


def test_parts_take_turns_and_the_longest_is_read_once():
    assert list(Together("ab", "12345")) == list("a1b2a3b4a5")
    assert list(Together("ab", "12")) == list("a1b2")
    assert list(Together("ab")) == list("ab")
    for parts in (("ab", "12345"), ("ab", "12"), ("ab",), ("abc", "1", "xy")):
        assert len(Together(*parts)) == len(list(Together(*parts)))
    assert Source(Together(DataLoader(Stream(), batch_size=4), [(X, Y)]), 0).length == 6
