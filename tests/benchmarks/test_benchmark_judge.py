import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judge import EPSILON, Reference, arrays, judge, reference, relative_error


def test_error_is_relative_to_the_norm() -> None:
    assert relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1.0], [1.0, 2.0]),
        ([np.nan, 1.0], [1.0, 1.0]),
        ([1.0, 1.0], [np.nan, 1.0]),
        ([np.inf, 1.0], [-np.inf, 1.0]),
        ([1.0], [0.0]),
    ],
)
def test_error_is_infinite_where_nothing_can_be_compared(found: list[float], expected: list[float]) -> None:
    assert relative_error(np.array(found), np.array(expected)) == float("inf")


def test_equal_nans_and_infinities_are_no_error() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 2.0, 0.0])
    assert relative_error(values, values) == 0


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1e-5), st.floats(0, 1e-5))
def test_limit_is_twice_pytorchs_error_or_four_epsilons(own: float, error: float) -> None:
    expected = Reference((np.array([1.0]),), (own,))
    found = [np.array([1.0 + error])]
    actual = relative_error(found[0], expected.outputs[0])
    assert (judge(found, expected).reason is None) == (actual <= max(2 * own, 4 * EPSILON))


def test_verdict_names_the_output_that_is_wrong() -> None:
    expected = Reference((np.ones(2), np.ones(2)), (0.0, 0.0))
    verdict = judge([np.ones(2), np.array([1.0, 1.1])], expected)
    assert verdict.reason is not None
    assert verdict.reason.startswith("output 1 is 7.1e-02 off")


def test_a_missing_output_is_wrong() -> None:
    assert judge([], Reference((np.ones(1),), (0.0,))).reason == "gave 0 outputs, not 1"


def test_nested_outputs_become_arrays_in_order() -> None:
    found = arrays({"a": torch.tensor([1.0]), "b": (None, np.array([2.0]))})
    assert [array.tolist() for array in found] == [[1.0], [2.0]]


def test_reference_measures_float32_against_float64() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8)).eval()
    x = torch.randn(3, 64)
    found = reference(module, (x,), {})
    assert found.outputs[0].dtype == np.float64
    assert 0 < found.errors[0] < 1e-5
    assert next(module.parameters()).dtype == torch.float32, "the model itself must not change"
    assert judge(arrays(module(x)), found).reason is None
    assert judge([arrays(module(x))[0] * 1.001], found).reason is not None
