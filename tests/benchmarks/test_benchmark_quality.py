import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_files
import pytest
import quality_tasks
import quantized_files
import torch
import training
from fidelity import LOWEST_COSINE, fidelity
from hypothesis import given
from hypothesis import strategies as st
from quantized_files import Calibration, quantized
from quantized_peers import OnnxRuntimeInt8, OpenVinoInt8
from scipy import stats
from training import Trained
from worker import FAILURES


def outputs(*rows: list[float]) -> list[np.ndarray[Any, Any]]:
    return [np.array([row]) for row in rows]


def test_equal_outputs_are_perfect() -> None:
    near = fidelity(outputs([1.0, 2.0], [3.0, 0.0]), outputs([1.0, 2.0], [3.0, 0.0]))
    assert (near.sqnr, near.agreement, near.reason) == (None, 1.0, None)
    assert near.cosine == pytest.approx(1)


def test_fidelity_of_known_errors() -> None:
    near = fidelity(outputs([3.0, 4.0], [0.0, 1.0]), outputs([3.0, 4.0], [1.0, 0.0]))
    assert near.sqnr == pytest.approx(10 * np.log10(26 / 2))
    assert near.cosine == pytest.approx(0.5)
    assert near.agreement == 0.5
    assert near.reason == f"the outputs have a mean cosine of 0.50 with float32's, less than {LOWEST_COSINE}"


@given(st.floats(0.01, 0.5), st.integers(0, 9))
def test_sqnr_is_that_of_the_noise(share: float, seed: int) -> None:
    signal = np.random.default_rng(seed).normal(size=(3, 50))
    near = fidelity([signal * (1 + share)], [signal])
    assert near.sqnr == pytest.approx(-20 * np.log10(share))
    assert near.cosine == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_does_not_count(bad: float) -> None:
    near = fidelity(outputs([bad, 1.0]), outputs([1.0, 1.0]))
    assert near.sqnr is None
    assert near.reason is not None


@pytest.mark.parametrize("found", [[], outputs([1.0]), outputs([1.0, 2.0], [1.0, 2.0])])
def test_other_shapes_are_refused(found: list[np.ndarray[Any, Any]]) -> None:
    with pytest.raises(ValueError, match=r"^outputs must have the shapes \[\(1, 2\)\] of the float32 model, not "):
        fidelity(found, outputs([1.0, 2.0]))


def test_paired_drop_and_its_bound() -> None:
    found = quality_tasks.paired([97.0, 96.0, 98.0], [96.5, 96.0, 97.0])
    low, high = stats.t.interval(0.95, 2, loc=0.5, scale=stats.sem([0.5, 0.0, 1.0]))
    assert found["drop"] == pytest.approx(0.5)
    assert found["upper"] == pytest.approx(high)
    assert low < found["drop"]
    assert quality_tasks.paired([97.0], [96.5])["upper"] is None


class Classifier(torch.nn.Module):
    """A convolution that tells a bright left half from a bright right half, settled so that it never errs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.head = torch.nn.Linear(4 * 4 * 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.nn.functional.max_pool2d(torch.relu(self.conv(x)), 2).flatten(1))


def halves(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(count) % 2
    images = 0.2 * torch.rand(count, 1, 8, 8)
    for image, label in zip(images, labels, strict=True):
        image[..., 4 * label : 4 * label + 4] += 1
    return images, labels


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """A trained classifier, and a cache directory of its own."""
    monkeypatch.setattr(onnx_files, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(quantized_files, "cache_directory", lambda: tmp_path)
    images, labels = halves(40)
    module = Classifier()
    training.train(module, images, labels, epochs=30)
    return Trained(module, images, labels, *halves(10))


@pytest.mark.parametrize("peer", [OnnxRuntimeInt8, OpenVinoInt8])
def test_peers_quantise_once_and_stay_near(peer: Any, case: Trained, tmp_path: Path) -> None:
    calibration = Calibration([(image,) for image in case.images.split(1)], "rectified")
    images = case.test_images.split(1)
    found = []
    for _ in range(2):
        made = peer(calibration, thorough=False)
        assert made.available() is None
        made.prepare(case.module, (images[0],), {}, threads=1)
        found.append([made.run((image,))[0] for image in images])
        assert made.outputs()[0] == pytest.approx(found[-1][0])
        files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    with torch.inference_mode():
        near = fidelity(found[0], [case.module(image).numpy() for image in images])
    assert near.agreement == 1
    assert near.sqnr is not None, "a peer without any error has not quantised"
    assert near.sqnr > 20
    np.testing.assert_array_equal(found[0], found[1])
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    assert not [file for file in files if file.name.startswith("unfinished")]


def test_another_calibration_is_another_file(case: Trained, tmp_path: Path) -> None:
    [onnx] = onnx_files.onnx_files(case.module, (case.images[:1],), {}, exporters=["script"])
    made = {
        quantized_files.onnx_runtime_file(onnx, Calibration([(images,)], kind), way)
        for images, kind, way in (
            (case.images[:1], "rectified", "static"),
            (case.images[1:2], "rectified", "static"),
            (case.images[:1], "signed", "static"),
            (case.images[:1], "signed", "dynamic"),
        )
    }
    assert len(made) == 4
    assert all(path.stat().st_size < onnx.stat().st_size * 20 for path in made)


def test_all_attempts_must_fail_to_fail() -> None:
    def broken() -> Path:
        raise KeyError("385")

    assert quantized({"good": lambda: Path("a"), "bad": broken}) == [Path("a")]
    with pytest.raises(RuntimeError, match=r"^the model cannot be quantised\. bad: KeyError: '385'$"):
        quantized({"bad": broken})


def test_classifier_task_compares_on_the_same_digits(case: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_tasks, "trained", lambda net, folds, seeds: itertools.repeat(case, folds * seeds))

    def same(case: Trained) -> quality_tasks.Run:
        return lambda image: case.module(image).detach().numpy()

    def contrary(case: Trained) -> quality_tasks.Run:
        return lambda image: -case.module(image).detach().numpy()

    def broken(case: Trained) -> quality_tasks.Run:
        raise RuntimeError("no kernel")

    settings = quality_tasks.Settings(folds=2, seeds=1)
    found = quality_tasks.classifier(
        "toy", {"same": same, "contrary": contrary, "broken": broken}, settings, lambda text: None
    )
    assert (found["accuracy"], found["runs"]) == (100, 2)
    assert found["peers"]["same"]["drops"] == [0, 0]
    assert found["peers"]["contrary"]["drops"] == [100, 100]
    assert found["peers"]["broken"] == {"failed": "RuntimeError: no kernel"}


def test_folds_are_disjoint_and_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = halves(50)
    trainings: Iterator[int] = itertools.count()
    monkeypatch.setattr(training, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(training, "digits", lambda: (images, labels))
    monkeypatch.setattr(training, "train", lambda module, *data: (next(trainings), module.eval()))
    monkeypatch.setitem(training.NETS, "toy", Classifier)
    first, again = (list(training.trained("toy", folds=5, seeds=2)) for _ in range(2))
    assert next(trainings) == len(first) == 10
    assert torch.equal(torch.cat([each.test_images for each in first[::2]]), images)
    assert all(len(each.images) == 40 and len(each.test_labels) == 10 for each in first)
    for old, new in zip(first, again, strict=True):
        torch.testing.assert_close(new.module.state_dict(), old.module.state_dict(), rtol=0, atol=0)


def test_failures_cover_what_tools_raise() -> None:
    with pytest.raises(FAILURES, match="cannot do this: no way"), onnx_files.own_errors("a tool", StopAsyncIteration):
        raise StopAsyncIteration("no way")
