"""Linear layers become two thin ones; on calibration inputs their results are what counts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.numerics import relative_error
from fxpress.pass_manager import PassManager
from fxpress.passes.architecture.factor_linear import FactorLinear
from fxpress.passes.architecture.low_rank import Decomposition, RankBudget
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

X = torch.randn(12, 32)


def thin(k: int, n: int, rank: int) -> nn.Linear:
    layer = nn.Linear(k, n)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n, rank) @ torch.randn(rank, k))
    return layer


def of(layer: nn.Module, x: torch.Tensor = X, **options):
    program = trace(layer.eval(), x)
    run = (
        PassManager([FactorLinear(**options)]).run
        if "ranks" in options
        else partial(check_pass, FactorLinear(**options))
    )
    return program, run(program)


def shapes(program) -> list[tuple[int, ...]]:
    return sorted(tuple(x.shape) for x in program.constants.values() if x.dim() == 2)


def test_text(golden):
    golden(of(nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 3, bias=False)))[1].text())


@pytest.mark.parametrize("x", [X, torch.randn(2, 3, 32), torch.randn(32)], ids=["rows", "tokens", "vector"])
def test_a_thin_weight_keeps_its_numbers(x):
    program, after = of(thin(32, 48, 5), x, error=1e-4, multiple=1)
    assert shapes(after) == [(5, 32), (48, 5)]
    assert relative_error(*after.run_flat(x), *program.run_flat(x)) < 1e-5


def test_budgets_give_ranks():
    layer = nn.Linear(32, 48)
    assert shapes(of(layer, ratio=0.5)[1]) == [(8, 32), (48, 8)]
    assert shapes(of(layer, ratio=0.5, multiple=1)[1]) == [(9, 32), (48, 9)]
    assert shapes(of(layer, ranks={"linear": 3})[1]) == [(3, 32), (48, 3)]
    rank = shapes(of(layer, energy=0.75, multiple=1)[1])[0][0]
    values = torch.linalg.svdvals(layer.weight.double()).square()
    kept = values.cumsum(0) / values.sum()
    assert kept[rank - 1] >= 0.75 > kept[rank - 2]
    assert shapes(of(layer, error=0.5, multiple=1)[1])[0][0] == rank


def test_what_changed_is_recorded_and_replays():
    _, after = of(nn.Linear(32, 48))
    record = after.history[-1]
    assert record.recipe == {"ranks": {"linear": 8}}
    assert record.decisions[0]["parameters"] == [32 * 48, 8 * (32 + 48)]
    assert record.rewrites[0].startswith("linear: 32 -> 48 becomes 32 -> 8 -> 48, 41.7% of the parameters, error ")
    assert record.decisions[0]["output_error"] is None


def test_inputs_that_were_seen_make_results_nearer():
    """Inputs lie near four directions, and have a mean: the weight's own directions matter less than those."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 48, bias=False)
    rows = (torch.randn(64, 4) @ torch.randn(4, 32) + 0.01 * torch.randn(64, 32) + torch.randn(32)) * 3
    data = [(rows[i : i + 12],) for i in range(0, 60, 12)]
    program, blind = of(layer, rows[:12], ranks={"linear": 4})
    _, seeing = of(layer, rows[:12], ranks={"linear": 4}, data=data)
    errors = [relative_error(*after.run_flat(rows[48:60]), *program.run_flat(rows[48:60])) for after in (blind, seeing)]
    assert errors[1] < 0.05 < errors[0]
    row = seeing.history[-1].decisions[0]
    assert row["output_error"] < 0.05 < row["error"]


def test_the_recorded_error_is_that_of_the_results():
    """About the mean, which the bias takes."""
    torch.manual_seed(1)
    layer, rows = nn.Linear(32, 24), torch.randn(400, 32) + 1
    program, after = of(layer, rows, data=[(rows,)], ranks={"linear": 6})
    (wanted,), (found,) = program.run_flat(rows), after.run_flat(rows)
    assert torch.allclose(found.mean(0), wanted.mean(0), atol=1e-4)
    error = relative_error(found - found.mean(0), wanted - wanted.mean(0))
    assert error == pytest.approx(after.history[-1].decisions[0]["output_error"], abs=1e-3)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (nn.Linear(32, 1), "32 -> 1 -> 1 would save nothing"),
        (nn.Sequential(nn.Linear(32, 4, bias=False), nn.Linear(4, 48)), "it is a factor already"),
        (lambda x: nn.functional.linear(x, x), "its weight is computed"),
    ],
    ids=["small", "factors", "computed"],
)
def test_other_layers_stay(function, reason):
    program = trace(function, X)
    after = check_pass("factor-linear", program)
    assert after.text() == program.text()
    assert after.history[-1].skipped
    assert all(line.endswith(reason) for line in after.history[-1].skipped)


def test_shared_weights_stay():
    layer = nn.Linear(32, 32)
    program = trace(nn.Sequential(layer, nn.ReLU(), layer), X)
    assert check_pass("factor-linear", program).text() == program.text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio must be above 0 and at most 1, not 0.0"),
        ({"error": 2.0}, "error must be above 0 and at most 1, not 2.0"),
        ({"error": 0.1, "energy": 0.9}, "energy and error must not both be given"),
        ({"multiple": 0}, "multiple must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        FactorLinear(**options)


def test_wrong_data_and_names_are_refused():
    program = trace(nn.Linear(32, 48), X)
    with pytest.raises(InvalidInput, match=r"^data must hold at least one item of inputs, but it is empty"):
        PassManager([FactorLinear(data=[])]).run(program)
    with pytest.raises(InvalidInput, match=r"^ranks must name layers among \['linear'\], not 'x'"):
        PassManager([FactorLinear(ranks={"x": 1})]).run(program)


def test_inputs_that_are_not_finite_leave_layers_alone():
    program = trace(nn.Linear(32, 48), X)
    after = PassManager([FactorLinear(data=[(X.log(),)])]).run(program)
    assert after.history[-1].skipped == ("%linear: its inputs on the calibration data are not finite",)


@given(n=st.integers(2, 40), k=st.integers(2, 40), error=st.floats(0.05, 0.9), multiple=st.sampled_from([1, 4]))
def test_errors_keep_to_the_budget(n, k, error, multiple):
    parts = Decomposition.of(torch.randn(n, k))
    rank = RankBudget(0.5, None, error, multiple).rank(parts.values)
    left, right = parts.factors(rank)
    assert relative_error(left @ right, parts.matrix) <= error + 1e-12
    if multiple == 1 and rank > 1:
        left, right = parts.factors(rank - 1)
        assert relative_error(left @ right, parts.matrix) > error


@given(n=st.integers(8, 40), k=st.integers(8, 40), ratio=st.floats(0.1, 1.0), multiple=st.sampled_from([1, 4, 8]))
def test_ratios_are_kept(n, k, ratio, multiple):
    _, after = of(nn.Linear(k, n), torch.randn(2, k), ratio=ratio, multiple=multiple)
    for row in after.history[-1].decisions:
        assert row["parameters"][1] <= max(ratio * row["parameters"][0], n + k) or row["why"]
    assert op_counts(after)["linear"] == 1 + bool(after.history[-1].rewrites)
