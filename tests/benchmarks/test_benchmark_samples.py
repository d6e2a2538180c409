import numpy as np
import pytest
import samples
import torch
from models import MODELS, Model


@pytest.mark.parametrize("part", samples.PARTS)
def test_crops_are_the_same_every_time_and_in_range(part: str) -> None:
    found = samples.images(part, 9, size=32)
    assert found.shape == (9, 3, 32, 32)
    assert -1 <= found.min() < 0 < found.max() <= 1
    assert torch.equal(found, samples.images(part, 9, size=32))
    assert len({tuple(image.flatten()[:50].tolist()) for image in found}) == 9


def test_calibration_and_evaluation_never_overlap() -> None:
    photographs, packages = (list(of.values()) for of in (samples.PHOTOGRAPHS, samples.TEXTS))
    assert not set(photographs[0]) & set(photographs[1])
    assert not set(packages[0]) & set(packages[1])


def test_texts_are_different_paragraphs_of_prose() -> None:
    found = samples.texts("calibration", 100)
    assert len(set(found)) == 100
    assert all(text[0].isupper() and text.endswith(".") and len(text.split()) >= 5 for text in found)
    assert samples.texts("calibration", 100) == found


def test_digits_have_labels_that_fit() -> None:
    images, labels = samples.digits()
    assert images.shape == (5000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
    means = torch.stack([images[labels == digit].mean(0) for digit in range(10)])
    nearest = (images[:200].flatten(1).unsqueeze(1) - means.flatten(1)).norm(dim=2).argmin(1)
    assert (nearest == labels[:200]).float().mean() > 0.7


def test_inputs_are_like_the_models_own() -> None:
    def make() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
        return torch.nn.Identity(), (torch.randn(1, 3, 224, 224), torch.tensor([[5, 9]]))

    model = Model("toy", "tiny", make)
    calibration, evaluation = (samples.inputs(model, part, 3) for part in samples.PARTS)
    assert [[each.shape for each in args] for args in calibration] == [[(1, 3, 224, 224), (1, 2)]] * 3
    assert all(5 <= args[1].min() and args[1].max() <= 9 for args in calibration)
    assert not torch.equal(calibration[0][0], evaluation[0][0])
    assert torch.equal(calibration[2][0], samples.inputs(model, "calibration", 3)[2][0])


def test_every_kind_is_known() -> None:
    assert {model.kind for model in MODELS.values()} == {"rectified", "signed", "transformer"}
