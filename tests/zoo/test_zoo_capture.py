"""Every model of the zoo can be captured, and what was captured computes what the model computes."""

from __future__ import annotations

import pytest
import torch
from fxpress.capturing import capture
from fxpress.verifier import verify
from zoo import ZOO

pytest.importorskip("transformers", reason="the zoo needs transformers")


QUICK = (
    "mobilenet_v2",
    "resnet",
    "convnext",
    "swin",
    "segformer",
    "bert",
    "deberta",
    "gpt2",
    "llama",
    "t5",
    "wav2vec2",
)
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ZOO]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_capture_computes_what_the_model_computes(name):
    model, args, kwargs = ZOO[name]()
    with torch.no_grad():
        expected = model(*args, **kwargs)
    program = capture(model, args, kwargs)
    verify(program)
    actual = program.run(*args, **kwargs)
    assert type(actual) is type(expected)
    expected_leaves = program.outputs.flatten(expected)
    for got, want in zip(program.outputs.flatten(actual), expected_leaves, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        error = torch.linalg.vector_norm(got.double() - want.double())
        assert error <= 1e-6 * torch.linalg.vector_norm(want.double())
    assert any(want.isfinite().all() and want.double().abs().sum() > 0 for want in expected_leaves)


def test_zoo_is_the_same_every_time():
    first, _, inputs = ZOO["bert"]()
    second, _, again = ZOO["bert"]()
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(inputs["input_ids"], again["input_ids"])


def test_zoo_is_large_enough():
    assert len(ZOO) >= 100
