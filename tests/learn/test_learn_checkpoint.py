"""A training that was killed goes on, and gives the bits of one that was not."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.learn import TrainConfig, train
from fxpress.learn.checkpoint import load_checkpoint, save_checkpoint
from interrupted_training import CONFIG, run
from torch import nn

SCRIPT = Path(__file__).parent / "interrupted_training.py"


class Stop(Exception):
    """Ends a training from its progress."""


def check_same(found, wanted):
    for name, x in wanted.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], x), name
    assert [dataclasses.replace(point, seconds=0) for point in found.curve] == [
        dataclasses.replace(point, seconds=0) for point in wanted.curve
    ]
    assert (found.step, found.quality, found.stopped) == (wanted.step, wanted.quality, wanted.stopped)


@pytest.fixture(scope="module")
def uninterrupted():
    whole = run(None)
    assert (whole.step, len(whole.curve), whole.stopped) == (5, 3, "patience")
    return whole


def test_a_killed_process_goes_on_with_the_same_bits(tmp_path, uninterrupted):
    """It is killed while it writes the checkpoint of step 8: what is there is that of step 7, whole."""
    path = tmp_path / "training"
    killed = subprocess.run([sys.executable, SCRIPT, path, "train: step 8 "], timeout=200)
    assert killed.returncode == -signal.SIGKILL
    assert load_checkpoint(path)["position"]["step"] == 7
    steps = []
    found = run(path, lambda stage: steps.append(stage.split(",")[0]))
    assert steps[1] == "train: step 8 of 20"
    check_same(found, uninterrupted)


@pytest.mark.parametrize(
    "stage", ["train: step 1 ", "train: step 5 ", "evaluate: epoch 1", "train: step 13 ", "evaluate: epoch 3"]
)
def test_it_may_end_anywhere(tmp_path, uninterrupted, stage):
    def stop(found):
        if found.startswith(stage):
            raise Stop

    path = tmp_path / "training"
    with pytest.raises(Stop):
        run(path, stop)
    check_same(run(path), uninterrupted)


def test_what_has_ended_is_returned_again(tmp_path, uninterrupted):
    path = tmp_path / "training"
    stages = []
    check_same(run(path), uninterrupted)
    check_same(run(path, stages.append), uninterrupted)
    assert stages == ["train: prepare"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(CONFIG, learning_rate=0.5), "learning_rate= 0.02 instead of 0.5;"),
        (dataclasses.replace(CONFIG, augment=()), "augment= .* instead of "),
    ],
)
def test_checkpoints_of_other_trainings_are_refused(tmp_path, config, message):
    path = tmp_path / "training"
    run(path, config=CONFIG)
    with pytest.raises(InvalidInput, match=f"^checkpoint must be of this training, but .* is of one with {message}"):
        run(path, config=config)


def small(path, weights=0.0, count=1):
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, weights)
    nn.init.zeros_(model.bias)
    batches = [(torch.ones(2, 3), torch.tensor([0, 1]))] * count
    return train(model, batches, TrainConfig(epochs=2), checkpoint=path, checkpoint_seconds=0.0)


def test_checkpoints_of_other_models_and_data_are_refused(tmp_path):
    path = tmp_path / "training"
    small(path)
    with pytest.raises(InvalidInput, match=r"is of one with a model with other weights; name another file, or delete"):
        small(path, weights=1.0)
    with pytest.raises(InvalidInput, match=r"is of one with batches an epoch 1 instead of 2;"):
        small(path, count=2)


def test_other_batches_than_those_before_are_noticed(tmp_path):
    path, config, model = tmp_path / "training", TrainConfig(epochs=1), nn.Linear(3, 2)
    batches = [(torch.full((2, 3), float(i)), torch.tensor([0, 1])) for i in range(4)]

    def stop(stage):
        if stage.startswith("train: step 3"):
            raise Stop

    with pytest.raises(Stop):
        train(model, batches, config, checkpoint=path, checkpoint_seconds=0.0, progress=stop)
    with pytest.raises(
        InvalidInput, match=r"^batches must be those of the training .* batch 1 of epoch 1 is another one;"
    ):
        train(model, batches[::-1], config, checkpoint=path)


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "text"])
def test_files_that_are_no_checkpoints_are_refused(tmp_path, damage):
    path = tmp_path / "training"
    small(path)
    whole = path.read_bytes()
    import safetensors.torch

    other = safetensors.torch.save({"x": torch.zeros(1)})
    path.write_bytes({"empty": b"", "cut": whole[:-9], "other": other, "text": b"hello, world"}[damage])
    with pytest.raises(
        InvalidInput, match=r"^checkpoint must be a file that training wrote, not .*delete it to train anew$"
    ):
        small(path)


def test_disks_that_take_nothing_are_named(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="must be in a writable folder"):
        small(tmp_path / "nowhere" / "training")

    def full(*args):
        raise OSError(28, "No space left on device")

    path = tmp_path / "training"
    small(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        InvalidInput, match=r"^checkpoint must be a file that can be written, .*No space left .*make room"
    ):
        save_checkpoint(path, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_states_come_back_as_they_were(tmp_path):
    state = {
        "tensors": {0: torch.randn(3).to(torch.bfloat16), "b": [torch.tensor(7), torch.zeros(0, 2)]},
        "tied": [torch.ones(2)] * 2,
        "numbers": [0.1, float("nan"), 2**60, None, True, "x"],
        "strided": torch.randn(2, 3).t(),
    }
    save_checkpoint(tmp_path / "state", state)
    found = load_checkpoint(tmp_path / "state")
    assert list(found["tensors"]) == [0, "b"]
    for wanted, read in zip(*map(torch.utils._pytree.tree_leaves, (state, found)), strict=True):
        if isinstance(wanted, torch.Tensor):
            assert wanted.dtype == read.dtype
            assert torch.equal(wanted, read)
        else:
            assert repr(wanted) == repr(read)
    assert load_checkpoint(tmp_path / "nothing") is None
