"""How far a quantised program's outputs may be off where one rounding error flips an integer."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.numerics import disturbed_errors, has_rounding, relative_error, run_disturbed, run_float64
from fxpress.ops import fxpress as ops
from fxpress.testing import trace
from torch import nn

EDGE = 2.5  # between the integers 2 and 3


def rounded(x):
    return ops.dequantize(ops.quantize(x, 1.0, 0), 1.0, 0)


def test_a_number_at_the_edge_may_become_either_integer():
    program = trace(lambda x: rounded(x), torch.tensor([EDGE + 1e-6, 1.1, 7.0]))
    runs = run_disturbed(program, program.example_inputs)
    assert {float(run[0][0]) for run in runs} == {2.0, 3.0}
    assert {float(run[0][1]) for run in runs} == {1.0}


def test_the_nearest_of_a_tensor_counts_even_when_it_is_far():
    program = trace(lambda x: rounded(x), torch.tensor([1.0, 2.2, 5.1]))
    assert run_disturbed(program, program.example_inputs)[0][0].tolist() == [1.0, 3.0, 5.0]


def test_nan_and_infinity_are_left_alone():
    x = torch.tensor([float("nan"), float("inf"), float("-inf")])
    program = trace(lambda x: rounded(x), x)
    for (output,) in run_disturbed(program, [x]):
        assert output.tolist() == [-128.0, 127.0, -128.0]


def test_a_kernel_that_sums_in_another_order_is_within_the_error():
    """What an artifact may compute: the layer before the rounding is off by a few epsilons."""
    torch.manual_seed(3)
    layer = nn.Linear(64, 256)
    program = trace(lambda x: rounded(layer(x) * 16).sum(0), torch.randn(50, 64))
    inputs = program.example_inputs
    exact = run_float64(program, inputs)
    (bound,) = disturbed_errors(program, inputs, exact)
    halves = (inputs[0][:, 32:] @ layer.weight[:, 32:].T + inputs[0][:, :32] @ layer.weight[:, :32].T) + layer.bias
    other = rounded(halves * 16).sum(0).detach()
    assert relative_error(other, exact[0]) <= bound
    assert bound < 0.01


def test_rows_quantised_at_run_time_are_disturbed_too():
    weight, scale = torch.randint(-127, 127, (4, 8), dtype=torch.int8), torch.rand(4)
    program = trace(lambda x: ops.dynamic_linear(x, weight, None, None, scale, "none"), torch.randn(3, 8))
    assert has_rounding(program)
    (error,) = disturbed_errors(program, program.example_inputs, run_float64(program, program.example_inputs))
    assert 0 < error < 1e-3


def test_float_programs_have_none():
    assert not has_rounding(trace(lambda x: x.relu(), torch.randn(3)))


def test_inputs_and_constants_have_no_error_to_disturb():
    x, weight = torch.randn(2, 3, 4), torch.randn(4)
    assert not has_rounding(trace(lambda x: rounded(x.permute(0, 2, 1)[:, 1:].reshape(-1)), x))
    assert not has_rounding(trace(lambda x: rounded(weight) + x, x))
    assert has_rounding(trace(lambda x: rounded(x * 0.3), x))


@pytest.mark.parametrize("broken", [False, True])
def test_self_test_tells_a_flip_from_a_broken_artifact(broken):
    """Flips of a whole network stay within twice the error, a wrong weight does not."""
    torch.manual_seed(0)
    x = torch.randn(4, 16)
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    program = fxpress.quantize(model, args=(x,), calibration=[x])
    exact = run_float64(program, [x])
    (bound,) = disturbed_errors(program, [x], exact)
    changed = program.map_constants(lambda c: c.flip(0) if broken and c.dtype == torch.int8 else c)
    found = changed.run_flat(x * (1 + 2e-7))[0]
    assert (relative_error(found, exact[0]) <= 2 * bound) is not broken
