"""Sums of very many elements are as accurate as PyTorch's, which adds pairwise: chunks, not one running sum."""

import fxpress
import pytest
import torch
from fxpress.numerics import compare_outputs, run_float64
from torch.nn import functional


def convolution(*arguments, bias=0.0, **options):
    module = torch.nn.Conv2d(*arguments, **options)
    torch.nn.init.constant_(module.bias, bias)
    return module


MODELS = {
    "average of an image": (lambda x: functional.adaptive_avg_pool2d(x, 1), (1, 16, 130, 131)),
    "average of wide windows": (lambda x: functional.avg_pool2d(x, (3, 900), (1, 40)), (1, 4, 5, 1800)),
    "average of a signal": (lambda x: functional.adaptive_avg_pool1d(x, 2), (1, 3, 40_001)),
    "convolution, then average": (torch.nn.Sequential(torch.nn.Conv2d(3, 24, 1), torch.nn.ReLU(),
                                                      torch.nn.AdaptiveAvgPool2d(1)), (1, 3, 120, 121)),
    "layer norm": (lambda x: functional.layer_norm(x, x.shape[1:]), (2, 90_001)),
    "group norm": (lambda x: functional.group_norm(x, 2), (1, 4, 150, 151)),
    "group norm, channels last": (lambda x: functional.group_norm(functional.relu(x), 2), (1, 8, 150, 151)),
    "softmax": (lambda x: functional.softmax(x, 1), (2, 60_001)),
    "softmax of columns": (lambda x: functional.log_softmax(x, 0), (20_000, 20)),
    "mean": (lambda x: x.mean((0, 2)), (3000, 2, 33)),
    "mean of transposed": (lambda x: x.transpose(0, 2).mean((0, 1)), (40, 300, 50)),
    "variance": (lambda x: x.var(0), (30_000, 8)),
    "deep convolution": (convolution(512, 32, 5, padding=2), (1, 512, 7, 7)),
    "deep convolution, unmerged taps": (convolution(200, 32, 3, padding=2, dilation=2), (1, 200, 9, 9)),
    "deep pointwise convolution": (convolution(2050, 32, 1), (1, 2050, 7, 7)),
    "deep Winograd convolution": (convolution(514, 64, 3, padding=1), (1, 514, 28, 28)),
    "convolution with a large bias": (convolution(32, 16, 3, padding=1, bias=50.0), (1, 32, 9, 9)),
    "deep linear": (torch.nn.Linear(5000, 40), (3, 5000)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_long_sums_are_accurate(name, isa):
    model, shape = MODELS[name]
    x = torch.randn(shape) if isinstance(model, torch.nn.Conv2d) else torch.rand(shape) + 0.5
    program = fxpress.capture(model, (x,))
    artifact = fxpress.compile(program, target=f"cpu{{isa={isa}}}")
    errors = compare_outputs([torch.as_tensor(artifact(x))], program.run_flat(x), run_float64(program, [x]))
    assert errors.acceptable, errors
