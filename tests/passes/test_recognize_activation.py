"""Activations written out, on infinities and NaN too."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fxpress.testing import check_pass, op_counts, trace

X = torch.cat([torch.randn(50) * 4, torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 88.0, -104.0])])
PASSES = "drop-identity,normalize-clamp,recognize-sigmoid,recognize-activation"


def tanh_argument(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


CASES = {
    "silu": (lambda x: x * torch.sigmoid(x), "silu"),
    "silu, gate first": (lambda x: torch.sigmoid(x) * x, "silu"),
    "sigmoid": (lambda x: 1 / (1 + torch.exp(-x)), "sigmoid"),
    "silu by exp": (lambda x: x * (1 / (1 + torch.exp(-x))), "silu"),
    "gelu": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "gelu"),
    "gelu, other order": (lambda x: x * ((torch.erf(x * 0.7071067811865476) + 1.0) * 0.5), "gelu"),
    "gelu halved": (lambda x: x * (1 + torch.erf(x / 1.41421)) / 2, "gelu"),
    "gelu by tanh": (lambda x: 0.5 * x * (1 + torch.tanh(tanh_argument(x))), "gelu"),
    "gelu by tanh, factored": (
        lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))), "gelu",
    ),
    "hardsigmoid": (lambda x: F.relu6(x + 3) / 6, "hardsigmoid"),
    "hardswish": (lambda x: x * F.relu6(x + 3) / 6, "hardswish"),
    "hardswish by hardsigmoid": (lambda x: x * F.hardsigmoid(x), "hardswish"),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), "mish"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    function, op = CASES[name]
    x = X[~X.isinf()] if op == "gelu" else X  # PyTorch's own float32 gelu of infinity may be NaN
    assert op_counts(check_pass(PASSES, trace(function, x))) == {op: 1}


def test_tanh_form_keeps_its_approximation():
    program = check_pass(PASSES, trace(CASES["gelu by tanh"][0], X))
    assert program.results[0].kwargs == {"approximate": "tanh"}


OTHERS = {
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gate of another value": lambda x: x * torch.sigmoid(x + 1),
    "scaled silu": lambda x: 2 * x * torch.sigmoid(x),
    "erf of x": lambda x: 0.5 * x * (1 + torch.erf(x)),
    "other cubic": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.05 * x**3))),
    "clamp to five": lambda x: x * (x + 3).clamp(0, 5) / 6,
    "sharper softplus": lambda x: x * torch.tanh(F.softplus(x, 2)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay(name):
    program = trace(OTHERS[name], X)
    assert check_pass(PASSES, program).text() == program.text()


def test_pieces_used_elsewhere_stay():
    def function(x):
        half = 0.5 * x
        return half * (1 + torch.erf(x / math.sqrt(2))), half

    program = trace(function, X)
    assert check_pass(PASSES, program).text() == program.text()
