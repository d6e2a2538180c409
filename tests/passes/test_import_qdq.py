"""Annotations of other tools, in our ops: integer types, ranges, constants, and what is left alone."""

from __future__ import annotations

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # defines quantized_decomposed
from fxpress.testing import check_pass, op_counts, trace

ops = torch.ops.quantized_decomposed


def annotated(scale, zero, low, high, dtype):
    def function(x):
        q = ops.quantize_per_tensor(x, scale, zero, low, high, dtype)
        return ops.dequantize_per_tensor(q, scale, zero, low, high, dtype)

    return function


def imported(function, *args):
    return check_pass("import-qdq,drop-dead-code", trace(function, *args))


def parameters(program, name):
    (node,) = [node for node in program.nodes if node.op == "call_function" and name in str(node.target)]
    return node.args[1:]


@pytest.mark.parametrize(("dtype", "low", "high", "zero"), [(torch.int8, -128, 127, 3), (torch.uint8, 0, 255, 131)])
def test_int8_and_uint8_become_int8(dtype, low, high, zero):
    before = trace(annotated(0.02, zero, low, high, dtype), torch.randn(50) * 4)
    after = check_pass("import-qdq", before)
    assert op_counts(after, full_names=True) == {"fxpress.quantize.default": 1, "fxpress.dequantize.default": 1}
    assert parameters(after, "fxpress.quantize") == (0.02, 3)
    assert torch.equal(before.run(*before.example_inputs), after.run(*after.example_inputs))


def test_fewer_integers_are_a_clamp_before():
    x = torch.linspace(-2, 4, 200)
    before = trace(annotated(0.02, 10, 0, 127, torch.uint8), x)
    after = check_pass("import-qdq", before)
    assert op_counts(after) == {"clamp": 1, "quantize": 1, "dequantize": 1}
    assert torch.equal(before.run(x), after.run(x))
    assert float(after.run(x).max()) == pytest.approx(0.02 * 117)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
def test_constants_are_dequantised(dtype):
    integers, scale, zero = torch.randint(-100, 100, (4, 6), dtype=dtype), torch.rand(4), torch.zeros(4).long()
    info = torch.iinfo(dtype)

    def function(x):
        weight = ops.dequantize_per_channel(integers, scale, zero, 0, info.min, info.max, dtype)
        return torch.nn.functional.linear(x, weight)

    after = imported(function, torch.randn(2, 6))
    assert op_counts(after) == {"linear": 1}


def test_integers_that_are_an_input():
    after = imported(
        lambda q: ops.dequantize_per_tensor(q, 0.1, 2, -128, 127, torch.int8), torch.ones(3).to(torch.int8)
    )
    assert op_counts(after, full_names=True) == {"fxpress.dequantize.default": 1}


def skipped(function, *args):
    """Why nothing was imported."""
    program = imported(function, *args)
    assert not any("fxpress" in name for name in op_counts(program, full_names=True))
    return program.history[0].skipped


def dynamic(x):
    scale, zero = ops.choose_qparams.tensor(x, -128, 127, 1e-5, torch.int8)
    q = ops.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8)
    return ops.dequantize_per_tensor.tensor(q, scale, zero, -128, 127, torch.int8)


def other_scale(x):
    q = ops.quantize_per_tensor(x, 0.1, 0, -128, 127, torch.int8)
    return ops.dequantize_per_tensor(q, 0.2, 0, -128, 127, torch.int8)


ONES, ZEROS = torch.ones(2, 2, dtype=torch.int8), torch.zeros(2, dtype=torch.int64)


def constant_of_computed_scale(x):
    return ops.dequantize_per_channel(ONES, x, ZEROS, 0, -128, 127, torch.int8)


def channels_of_a_computed_value(q):
    return ops.dequantize_per_channel(q, ZEROS.float(), ZEROS, 0, -128, 127, torch.int8)


@pytest.mark.parametrize(
    ("function", "x", "reason"),
    [
        (annotated(0.1, 0, -32768, 32767, torch.int16), torch.randn(3), "its integers are int16, not int8 or uint8"),
        (dynamic, torch.randn(3), "its scale or zero point is computed at run time; use a static quantisation"),
        (other_scale, torch.randn(3), "quantises with other parameters"),
        (constant_of_computed_scale, torch.rand(2), "its scale or zero point is computed"),
        (channels_of_a_computed_value, ONES, "a computed value must have one scale, not one for each channel"),
        (
            lambda q: ops.dequantize_per_tensor(q, 0.1, 2, 0, 255, torch.uint8),
            torch.ones(3, dtype=torch.uint8),
            "its uint8 integers come from another op than quantize_per_tensor",
        ),
        (
            lambda q: ops.dequantize_per_tensor(q, 0.1, 2, -128, 127, torch.int8, out_dtype=torch.float16),
            torch.ones(3, dtype=torch.int8),
            "its result is torch.float16, not float32",
        ),
    ],
)
def test_what_does_not_fit_stays_and_is_reported(function, x, reason):
    assert any(text.endswith(reason) for text in skipped(function, x))
