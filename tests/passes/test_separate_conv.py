"""Convolutions become depthwise and pointwise ones with the nearest weights."""

from __future__ import annotations

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.numerics import relative_error
from fxpress.pass_manager import PassManager
from fxpress.passes.architecture.separate_conv import SeparateConv, separate
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

X = torch.randn(2, 6, 9, 9)


def separable(ic: int, oc: int, kernel: int, **options) -> nn.Conv2d:
    """A convolution whose weight is a depthwise one times a pointwise one."""
    layer = nn.Conv2d(ic, oc, kernel, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(oc, ic, 1, 1) * torch.randn(1, ic, kernel, kernel))
    return layer


def of(layer: nn.Module, x: torch.Tensor = X, **options):
    program = trace(layer.eval(), x)
    return program, check_pass(SeparateConv(**options), program)


def test_text(golden):
    golden(of(nn.Conv2d(6, 8, 3, stride=2, padding=1, dilation=2))[1].text())


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 2}, {"dilation": 2, "padding": "same"}, {"bias": False}]
)
def test_a_product_of_both_keeps_its_numbers(options):
    program, after = of(separable(6, 20, 3, **options))
    assert op_counts(after) == {"conv2d": 2}
    assert relative_error(*after.run_flat(X), *program.run_flat(X)) < 1e-5
    assert after.history[-1].decisions[0]["error"] < 1e-6


def test_what_changed_is_recorded():
    _, after = of(nn.Conv2d(6, 20, 3))
    row = after.history[-1].decisions[0]
    assert (row["layer"], row["before"], row["after"]) == ("conv2d", "6 -> 20 of 3x3", "depthwise 3x3 and 6 -> 20")
    assert row["parameters"] == [6 * 20 * 9, 6 * 9 + 6 * 20]
    assert row["macs"] == [49 * n for n in row["parameters"]]
    assert after.history[-1].rewrites[0].startswith("conv2d: 6 -> 20 of 3x3 becomes depthwise 3x3 and 6 -> 20, 16.1%")


def test_more_terms_are_nearer():
    weight = torch.randn(20, 6, 3, 3)
    errors = [separate(weight, terms)[2] for terms in range(1, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6
    assert op_counts(of(nn.Conv2d(6, 20, 3), terms=3)[1]) == {"conv2d": 2}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(6, 6, 3, groups=6), "it has 6 groups already"),
        (nn.Conv2d(6, 8, 1), "its kernel has one tap: it is pointwise already"),
        (nn.Conv2d(6, 1, 3), "depthwise 3x3 and 6 -> 1 would save nothing"),
    ],
    ids=["groups", "pointwise", "one channel"],
)
def test_other_convolutions_stay(layer, reason):
    program, after = of(layer)
    assert after.text() == program.text()
    assert after.history[-1].skipped == (f"%conv2d: {reason}",)


def test_shared_and_computed_weights_stay():
    layer, table = nn.Conv2d(6, 6, 3, padding=1), torch.randn(6, 6, 3, 3)
    after = check_pass("separate-conv", trace(nn.Sequential(layer, nn.ReLU(), layer), X))
    assert after.history[-1].skipped == tuple(f"%{x}: its weight is read elsewhere too" for x in ("conv2d", "conv2d_1"))
    program = trace(lambda x: nn.functional.conv2d(x, table * x.mean()), X)
    assert check_pass("separate-conv", program).history[-1].skipped == ("%conv2d: its weight is computed",)


def test_weights_that_are_not_finite_stay():
    layer = nn.Conv2d(6, 8, 3)
    layer.weight.data[0, 0, 0, 0] = float("nan")
    program = trace(layer, X)
    after = PassManager("separate-conv").run(program)
    assert after.history[-1].skipped == ("%conv2d: its weight is not finite",)


def test_scopes_choose_layers():
    program = trace(nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval(), X)
    assert op_counts(PassManager("separate-conv{only=conv2d_1}").run(program)) == {"conv2d": 3, "relu": 1}
    assert op_counts(PassManager("separate-conv{ignore=0|conv2d_1}").run(program)) == {"conv2d": 2, "relu": 1}
    with pytest.raises(InvalidInput, match=r"^only must match something that can be replaced, but 'relu' does not"):
        PassManager("separate-conv{only=relu}").run(program)


def test_terms_must_be_positive():
    with pytest.raises(InvalidInput, match=r"^terms must be at least 1, not 0"):
        SeparateConv(terms=0)


@given(
    oc=st.integers(1, 9), ic=st.integers(1, 6), kernel=st.sampled_from([(3,), (2, 3), (3, 3), (1, 2, 2)]),
    terms=st.integers(1, 4),
)  # fmt: skip
def test_the_error_is_that_of_the_product(oc, ic, kernel, terms):
    weight = torch.randn(oc, ic, *kernel)
    terms = min(terms, oc, weight[0, 0].numel())
    depthwise, pointwise, error = separate(weight, terms)
    product = torch.einsum("ojt,jts->ojs", pointwise.reshape(oc, ic, terms), depthwise.reshape(ic, terms, -1))
    assert relative_error(product, weight.flatten(2)) == pytest.approx(error, abs=1e-5)
