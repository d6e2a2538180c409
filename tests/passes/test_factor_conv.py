"""Convolutions become a core of few channels between pointwise ones."""

from __future__ import annotations

import pytest
import torch
from fxpress.numerics import relative_error
from fxpress.pass_manager import PassManager
from fxpress.passes.architecture.factor_conv import FactorConv, product, ranks_within, tucker
from fxpress.passes.architecture.low_rank import RankBudget
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

X = torch.randn(2, 16, 9, 9)


def narrow(ic: int, oc: int, kernel: tuple[int, ...], ri: int, ro: int, **options) -> nn.Module:
    """A convolution whose weight has small ranks along both channels."""
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1](ic, oc, kernel, **options)
    core = torch.randn(ro, ri, *kernel)
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("rs...,or,is->oi...", core, torch.randn(oc, ro), torch.randn(ic, ri)))
    return layer


def of(layer: nn.Module, x: torch.Tensor = X, **options):
    program = trace(layer.eval(), x)
    return program, check_pass(FactorConv(**options), program)


def test_text(golden):
    golden(of(nn.Conv2d(16, 24, 3, stride=2, padding=1), multiple=1)[1].text())


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"padding": 2, "dilation": 2}, {"bias": False, "padding": 1}])
def test_a_weight_of_small_ranks_keeps_its_numbers(dims, options):
    x = torch.randn(2, 16, *[7] * dims)
    program, after = of(narrow(16, 24, (3,) * dims, 4, 5, **options), x, error=1e-4, multiple=1)
    assert op_counts(after) == {f"conv{dims}d": 3}
    assert {tuple(c.shape) for c in after.constants.values()} >= {(4, 16, *[1] * dims), (5, 4, *[3] * dims)}
    assert relative_error(*after.run_flat(x), *program.run_flat(x)) < 1e-4


def test_pointwise_convolutions_have_two_factors():
    program, after = of(narrow(16, 24, (1, 1), 4, 4, stride=2), error=1e-4, multiple=1)
    assert op_counts(after) == {"conv2d": 2}
    assert relative_error(*after.run_flat(X), *program.run_flat(X)) < 1e-4
    assert after.history[-1].decisions[0]["after"] == "16 -> 4 -> 24"


def test_what_changed_is_recorded():
    _, after = of(nn.Conv2d(16, 24, 3))
    row = after.history[-1].decisions[0]
    assert row["after"] == "16 -> 8 -> 16 -> 24"
    assert row["parameters"] == [16 * 24 * 9, 16 * 8 + 8 * 16 * 9 + 16 * 24]
    assert row["macs"] == [16 * 24 * 9 * 49, 16 * 8 * 81 + (8 * 16 * 9 + 16 * 24) * 49]
    assert 0.3 < row["error"] < 1


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(16, 16, 3, groups=16), "it has 16 groups"),
        (nn.Sequential(nn.Conv2d(16, 4, 1, bias=False), nn.Conv2d(4, 8, 3)), "it is a factor already"),
        (nn.Conv2d(16, 24, 3, stride=9), "16 -> 8 -> 16 -> 24 would save nothing"),
    ],
    ids=["groups", "factors", "few places"],
)
def test_other_convolutions_stay(layer, reason):
    """The last one sees one place of 81, at all of which the first factor would be computed."""
    program, after = of(layer)
    assert after.text() == program.text()
    assert all(line.endswith(reason) for line in after.history[-1].skipped)
    assert after.history[-1].skipped


def test_scopes_choose_layers():
    program = trace(nn.Sequential(nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3)).eval(), X)
    assert op_counts(PassManager("factor-conv{only=2}").run(program))["conv2d"] == 4


@given(
    oc=st.integers(2, 12), ic=st.integers(2, 12), kernel=st.sampled_from([(3,), (3, 3), (1, 1), (2, 2, 2)]),
    error=st.floats(0.1, 0.9),
)  # fmt: skip
def test_errors_keep_to_the_budget(oc, ic, kernel, error):
    weight = torch.randn(oc, ic, *kernel)
    parts = tucker(weight, RankBudget(0.5, None, error, 1))
    assert relative_error(product(parts), weight.double()) <= error + 1e-9


@given(oc=st.integers(4, 64), ic=st.integers(4, 64), taps=st.sampled_from([3, 9, 25]), ratio=st.floats(0.1, 1))
def test_ratios_are_kept_where_ranks_allow(oc, ic, taps, ratio):
    ro, ri = ranks_within(RankBudget(ratio, None, None, 1), oc, ic, taps)
    size = ic * ri + ri * ro * taps + ro * oc
    assert size <= ratio * oc * ic * taps or (ro, ri) == (1, 1)
