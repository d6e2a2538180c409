from collections.abc import Iterator

import fxpress
import numpy as np
import pruning_quality
import pytest
import torch
from pruning_quality import UNPRUNED, Found, Settings, accuracy, compare, parameters
from scipy import stats
from torch import nn
from training import Trained


def case(images: int = 250) -> Trained:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(images, 1, 2, 2, generator=generator)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    return Trained(net, pixels, pixels.sum((1, 2, 3)).long() % 3, pixels, torch.zeros(images, dtype=torch.int64))


def test_accuracy_is_the_share_of_right_answers() -> None:
    data = case(200)
    with torch.no_grad():
        wanted = 100 * float((data.module(data.images).argmax(1) == 0).float().mean())
    assert accuracy(fxpress.capture(data.module, (data.images[:100],)), data) == pytest.approx(wanted)
    assert parameters(fxpress.capture(data.module, (data.images[:100],))) == 15


def test_images_come_without_labels_and_each_once() -> None:
    images = torch.arange(250.0).reshape(250, 1, 1, 1)
    batches = pruning_quality._Unlabelled(images)
    seen = list(batches)
    assert len(batches) == len(seen) == 3
    assert all(target is None for _, target in seen)
    assert torch.cat([batch for batch, _ in seen]).flatten().sort().values.equal(images.flatten())


def test_learning_brings_a_classifier_nearer_to_what_its_teacher_says() -> None:
    data = case()
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    program = fxpress.capture(student, (data.images[:100],))
    taught = pruning_quality._taught(program, data, Settings(epochs=20, rate=0.03, moved=0))

    def difference(found: fxpress.Program) -> float:
        with torch.no_grad():
            said = (found.run(data.images[:100]), data.module(data.images[:100]))
        return float((said[0].softmax(1) - said[1].softmax(1)).norm())

    assert difference(taught) < difference(program) / 2


def test_drops_are_paired_with_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    program = fxpress.capture(case().module, (case().images[:100],))
    scores = {UNPRUNED: [98.0, 97.0], "80% gone": [97.0, 96.5], "80% gone, int8": [97.5, 96.0]}

    def ways(number: int, settings: Settings) -> Iterator[Found]:
        yield Found(UNPRUNED, UNPRUNED, program)
        yield Found("80% gone", UNPRUNED, program)
        yield Found("80% gone, int8", "80% gone", program)

    left = iter([score for pair in zip(*scores.values(), strict=True) for score in pair])
    monkeypatch.setattr(pruning_quality, "trained", lambda *args: range(2))
    monkeypatch.setattr(pruning_quality, "ways", ways)
    monkeypatch.setattr(pruning_quality, "accuracy", lambda program, case: next(left))
    found = compare(Settings(folds=1, seeds=2), lambda text: None)
    assert found["runs"] == 2
    entry = found["ways"]["80% gone"]
    assert (entry["drop"], entry["drops"], entry["parameters removed"]) == (0.75, [1.0, 0.5], 0.0)
    assert entry["upper"] == pytest.approx(0.75 + stats.t.ppf(0.975, 1) * np.std([1.0, 0.5], ddof=1) / 2**0.5)
    assert found["ways"]["80% gone, int8"]["drop"] == 0.0
    assert found["ways"]["80% gone, int8"]["compared with"] == "80% gone"
