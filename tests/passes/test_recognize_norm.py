"""Layer norm and RMS norm written out."""

from __future__ import annotations

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace

W, B = torch.randn(8) + 1, torch.randn(8)
X = torch.randn(2, 5, 8)
LAYER_NORM, RMS_NORM = "recognize-layer-norm,absorb-norm-weight", "recognize-rms-norm,absorb-norm-weight"


def layer_norm(x, dims=-1):
    d = x - x.mean(dims, keepdim=True)
    return d / torch.sqrt((d * d).mean(dims, keepdim=True) + 1e-5)


def layer_norm_var(x):
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)


def rms_norm(x, dims=-1):
    return x * torch.rsqrt(x.pow(2).mean(dims, keepdim=True) + 1e-6)


CASES = {
    "layer norm": (LAYER_NORM, layer_norm, {"layer_norm": 1}),
    "layer norm by var": (LAYER_NORM, layer_norm_var, {"layer_norm": 1}),
    "layer norm with weight and bias": (LAYER_NORM, lambda x: layer_norm(x) * W + B, {"layer_norm": 1}),
    "layer norm, weight on the left": (LAYER_NORM, lambda x: B + W * layer_norm(x), {"layer_norm": 1}),
    "layer norm over two dims": (LAYER_NORM, lambda x: layer_norm(x, (1, 2)), {"layer_norm": 1}),
    "layer norm over the first dim": (LAYER_NORM, lambda x: layer_norm(x, 0), {"layer_norm": 1, "permute": 2}),
    "rms norm": (RMS_NORM, rms_norm, {"rms_norm": 1}),
    "rms norm with weight": (RMS_NORM, lambda x: W * rms_norm(x), {"rms_norm": 1}),
    "rms norm by division": (
        RMS_NORM, lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(), {"rms_norm": 1},
    ),
    "rms norm keeps a bias outside": (RMS_NORM, lambda x: rms_norm(x) + B, {"rms_norm": 1, "add": 1}),
    "bias before weight": (LAYER_NORM, lambda x: (layer_norm(x) + B) * W, {"layer_norm": 1, "mul": 1}),
    "weight of another dim": (RMS_NORM, lambda x: rms_norm(x) * W[:5, None], {"rms_norm": 1, "mul": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    passes, function, expected = CASES[name]
    program = check_pass(passes, trace_folded(function, X))
    assert op_counts(program) == expected


def trace_folded(function, *inputs):
    from fxpress.pass_manager import PassManager

    return PassManager("fold-constants").run(trace(function, *inputs))


def test_channels_in_the_second_dim():
    w, b = torch.randn(4, 1, 1), torch.randn(4, 1, 1)
    program = check_pass(LAYER_NORM, trace(lambda x: layer_norm(x, 1) * w + b, torch.randn(2, 4, 3, 5)))
    assert op_counts(program) == {"layer_norm": 1, "permute": 2}


NOT_A_NORM = {
    "unbiased variance": lambda x: (x - x.mean(-1, True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5),
    "other dims": lambda x: (x - x.mean(-1, True)) / torch.sqrt(x.var(0, keepdim=True, unbiased=False) + 1e-5),
    "mean used elsewhere": lambda x: (layer_norm_var(x), x.var(-1, keepdim=True, unbiased=False).exp()),
    "of another tensor": lambda x: x.exp() * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
}


@pytest.mark.parametrize("name", NOT_A_NORM)
def test_not_a_norm(name):
    program = check_pass("merge-duplicates", trace(NOT_A_NORM[name], X))
    after = check_pass("recognize-layer-norm,recognize-rms-norm", program)
    assert after.text() == program.text()


def test_a_number_has_no_dims_to_normalise():
    program = trace(lambda x: rms_norm(x), torch.tensor(1.5))
    assert check_pass("recognize-rms-norm", program).text() == program.text()
