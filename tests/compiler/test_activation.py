"""Activations by name: each is its formula, NaN flows through, and a wrong name says what there is."""

from __future__ import annotations

import math

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.ops.activation import ACTIVATIONS, activate, parse_activation

X = torch.cat([torch.linspace(-8, 8, 65, dtype=torch.float64), torch.tensor([-50.0, 30.0, 0.0], dtype=torch.float64)])


def clip(x, low, high):
    return torch.where(x < low, low, torch.where(x > high, high, x))


def logistic(x):
    return 1 / (1 + torch.exp(-x))


FORMULAS = {
    "none": lambda x: x,
    "relu": lambda x: torch.where(x > 0, x, 0.0),
    "relu6": lambda x: clip(x, 0.0, 6.0),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * logistic(x),
    "hardswish": lambda x: x * clip(x + 3, 0.0, 6.0) / 6,
    "hardsigmoid": lambda x: clip(x + 3, 0.0, 6.0) / 6,
    "sigmoid": logistic,
    "tanh": lambda x: 2 * logistic(2 * x) - 1,
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "elu(0.5)": lambda x: torch.where(x > 0, x, 0.5 * (torch.exp(x) - 1)),
    "leaky_relu(0.1)": lambda x: torch.where(x > 0, x, 0.1 * x),
    "clamp(-1.5,2.0)": lambda x: clip(x, -1.5, 2.0),
}


def test_every_activation_has_a_formula_here():
    assert {parse_activation(text)[0] for text in FORMULAS} == set(ACTIVATIONS)


@pytest.mark.parametrize("text", FORMULAS)
def test_formula(text):
    torch.testing.assert_close(activate(X, text), FORMULAS[text](X), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("text", FORMULAS)
def test_nan_stays_nan(text):
    assert activate(torch.tensor([math.nan]), text).isnan()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("relu", ("relu", ())),
        ("relu()", ("relu", ())),
        ("leaky_relu(0.01)", ("leaky_relu", (0.01,))),
        ("clamp(0.0,6.0)", ("clamp", (0.0, 6.0))),
        ("clamp(-inf, 1e-3)", ("clamp", (-math.inf, 0.001))),
    ],
)
def test_parsed(text, parsed):
    assert parse_activation(text) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("swish", r"^activation must be one of \['clamp', .*'tanh'\], not 'swish'$"),
        ("relu(", r"^activation must be one of \[.*\], not 'relu\('$"),
        ("", r"^activation must be one of \[.*\], not ''$"),
        ("relu(1)", r"^activation relu must have 0 parameters, not 1$"),
        ("clamp(1)", r"^activation clamp must have 2 parameters, not 1$"),
        ("elu", r"^activation elu must have 1 parameters, not 0$"),
        ("elu(x)", r"^activation parameters must be numbers, not 'x'$"),
        ("elu(1,)", r"^activation parameters must be numbers, not '1,'$"),
    ],
)
def test_errors(text, message):
    with pytest.raises(InvalidInput, match=message):
        parse_activation(text)
