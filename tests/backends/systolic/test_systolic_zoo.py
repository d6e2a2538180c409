"""Real architectures with random weights on a systolic array: what leaves it is what PyTorch computes."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.numerics import relative_error
from zoo import ZOO

TARGET = "systolic{rows=8,cols=8}"
EXACT = ("resnet", "mobilenet_v2", "regnet")
WITH_FLOATS = ("convnext", "swin", "segformer", "vit", "bert", "gpt2", "t5", "whisper")
"""Layer norms and softmax between integers sum in another order than PyTorch, which may flip a rounding."""


def compiled(name: str) -> tuple[fxpress.Program, fxpress.runtime.Artifact]:
    model, args, kwargs = ZOO[name]()
    program = fxpress.quantize(model, args=args, kwargs=kwargs, calibration=[kwargs or args], target=TARGET)
    return program, fxpress.compile(program, target=TARGET)  # compares int8 values with PyTorch, and tests itself


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_convolutional_networks_are_exact(name: str) -> None:
    program, artifact = compiled(name)
    for found, wanted in zip(
        artifact.run_flat(*program.example_inputs), program.run_flat(*program.example_inputs), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    assert artifact.report()["systolic"]["total"]["cycles"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_FLOATS)
def test_networks_with_floats_between(name: str) -> None:
    program, artifact = compiled(name)
    assert len(artifact.programs) > 1
    for found, wanted in zip(
        artifact.run_flat(*program.example_inputs), program.run_flat(*program.example_inputs), strict=True
    ):
        assert relative_error(found, wanted) < 0.05
