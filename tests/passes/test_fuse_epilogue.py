"""Activations and residuals fused into the convolution or linear layer before them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.ops import parse_activation
from fxpress.pass_manager import PassManager
from fxpress.passes.fusion.fuse_epilogue import FuseEpilogue
from fxpress.testing import check_pass, op_counts, trace
from torch import nn

torch.manual_seed(0)
CONV, CONV2, UP, LINEAR = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 1), nn.Linear(5, 5)
X = torch.randn(2, 4, 3, 5)
NORMALIZE = "normalize-conv,normalize-linear,normalize-clamp"


def fused(function, pass_=None, x=X):
    return check_pass([NORMALIZE, pass_ or FuseEpilogue()], trace(function, x))


def producer(program):
    return next(node for node in program.nodes if "activation" in str(getattr(node.target, "_schema", "")))


ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu(0.2)": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu(0.01)": F.leaky_relu,
    "elu(0.5)": lambda x: F.elu(x, 0.5),
    "softplus": F.softplus,
    "mish": F.mish,
    "clamp(-1.0,2.0)": lambda x: x.clamp(-1, 2),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("layer", [CONV, UP, LINEAR])
def test_activation(name, layer):
    program = fused(lambda x: ACTIVATIONS[name](layer(x)))
    assert sum(op_counts(program).values()) == 1
    assert producer(program).args[producer_index(program, "activation")] == name
    assert parse_activation(name)


def producer_index(program, name):
    return [a.name for a in producer(program).target._schema.arguments].index(name)


NOT_FUSED = {
    "selu": F.selu,
    "sharp softplus": lambda x: F.softplus(x, 2),
    "clamp below": lambda x: x.clamp(min=-1),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4])),
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_other_activations_stay(name):
    assert not fused(lambda x: NOT_FUSED[name](CONV(x))).history[-1].changed


@pytest.mark.parametrize("layer", [CONV, LINEAR])
def test_residual_then_activation(layer):
    assert sum(op_counts(fused(lambda x: F.relu(layer(x) + x))).values()) == 1
    assert sum(op_counts(fused(lambda x: F.relu(x + layer(x)))).values()) == 1


def test_later_of_two_candidates_takes_the_other_as_residual():
    program = fused(lambda x: CONV(x) + CONV2(x.exp()))
    first, second = (node for node in program.nodes if node.target is torch.ops.fxpress.conv.default)
    assert (first.args[3], second.args[3]) == (None, first)


def test_residual_computed_after_the_layer():
    program = fused(lambda x: CONV(x) + x.exp())
    assert op_counts(program) == {"exp": 1, "conv": 1}


RESIDUALS_NOT_FUSED = {
    "twice itself": lambda x: (lambda y: y + y)(CONV(x)),
    "broadcast": lambda x: CONV(x) + x[:1],
    "scaled": lambda x: torch.add(CONV(x), x, alpha=2),
    "transposed convolution": lambda x: UP(x) + x,
    "result used elsewhere": lambda x: (lambda y: (y + x, y))(CONV(x)),
    "after an activation": lambda x: CONV(x).exp() + x,
}


@pytest.mark.parametrize("name", RESIDUALS_NOT_FUSED)
def test_residuals_not_fused(name):
    assert not fused(RESIDUALS_NOT_FUSED[name]).history[-1].changed


def test_activation_before_the_sum_leaves_the_sum():
    assert op_counts(fused(lambda x: CONV(x).relu() + x)) == {"conv": 1, "add": 1}


def test_only_one_activation_and_residual():
    counts = op_counts(fused(lambda x: ((CONV(x) + x) + x.exp()).relu().tanh()))
    assert counts == {"conv": 1, "exp": 1, "add": 1, "relu": 1, "tanh": 1}


def test_options():
    assert op_counts(fused(lambda x: (CONV(x) + x).relu(), FuseEpilogue(residual=False)))["add"] == 1
    assert op_counts(fused(lambda x: (CONV(x) + x).relu(), FuseEpilogue(activation=False)))["relu"] == 1


def test_the_fused_layer_comes_from_where_the_layer_came_from():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    program = PassManager("normalize-conv,fuse-epilogue").run(trace(model, torch.randn(1, 3, 4, 4)))
    (fused,) = [node for node in program.nodes if node.op == "call_function"]
    assert fused.meta["source"].endswith("(0)")
