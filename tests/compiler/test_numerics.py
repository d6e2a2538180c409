"""Errors are relative to float64; what is not finite must be the same."""

import pytest
import torch
from fxpress.numerics import FLOAT32_EPSILON, compare_outputs, relative_error, run_float64
from fxpress.testing import trace

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([1.0], [0.0], 1.0),
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([NAN, 1.0], [INF, 1.0], INF),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([1.0, 1.0], [NAN, 1.0], INF),
    ],
)
def test_relative_error(actual, expected, error):
    assert relative_error(torch.tensor(actual), torch.tensor(expected)) == error


def test_integers_and_shapes_must_be_equal():
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 3])) == INF
    assert relative_error(torch.ones(2), torch.ones(3)) == INF


def test_bound_is_twice_the_baseline_or_four_epsilons():
    one = torch.ones(1)
    wide = one.double()
    assert compare_outputs([one], [one], [wide]).bounds == (4 * FLOAT32_EPSILON,)
    errors = compare_outputs([wide * 1.003], [wide * 1.002], [wide])
    assert errors.acceptable
    assert not compare_outputs([wide * 1.005], [wide * 1.002], [wide]).acceptable


def test_float64_run_widens_constants_and_casts():
    weight = torch.tensor([1 / 3])
    program = trace(lambda x: (x * weight).to(torch.float32) + 1e-9, torch.ones(1))
    (y,) = run_float64(program, program.example_inputs)
    assert y.dtype == torch.float64
    assert y.item() == weight.double().item() + 1e-9
