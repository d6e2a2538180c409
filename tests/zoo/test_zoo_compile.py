"""Every model of the zoo compiles and is as accurate as PyTorch's float32, judged against float64."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.capturing import capture
from fxpress.numerics import compare_outputs, run_float64
from zoo import ZOO

pytest.importorskip("transformers", reason="the zoo needs transformers")

QUICK = ("resnet_bottleneck", "vit_mae", "segformer", "bert", "fnet", "gpt2", "llama", "videomae")
AVX2 = ("mobilenet_v1", "swin", "bert", "gpt_neo", "t5")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ZOO])
def test_compiled_model_is_right(name):
    check(name, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", AVX2)
def test_compiled_for_avx2(name):
    check(name, "cpu{isa=avx2}")


def check(name: str, target: str) -> None:
    model, args, kwargs = ZOO[name]()
    program = capture(model, args, kwargs)
    artifact = fxpress.compile(program, target=target)
    found = [torch.as_tensor(x) for x in program.outputs.flatten(artifact(*args, **kwargs))]
    inputs = program.example_inputs
    errors = compare_outputs(found, program.run_flat(*inputs), run_float64(program, inputs))
    assert errors.acceptable, errors
