"""Ops between dequantize and quantize become integer ops; what does not fit stays float32 and is reported."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress import PassManager
from fxpress.passes.quantization.adopt_qdq import grid_of
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st

ops = torch.ops.fxpress

BEFORE = "normalize-conv,normalize-linear,normalize-pool,fuse-epilogue"


def marked(x, scale=0.05, zero=-3):
    return ops.dequantize(ops.quantize(x, scale, zero), scale, zero)


def on_grid(*shape, scale=0.01):
    integers = torch.randint(-127, 128, shape)
    integers.flatten(1)[:, 0] = 127
    return integers * (scale * (1 + torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))))


def adopted(function, *args):
    """The program after the pass, which must give nearly what it gave before."""
    before = PassManager(BEFORE).run(trace(function, *args))
    after = check_pass("adopt-qdq,merge-duplicates,drop-dead-code", before)
    a, b = before.run(*args), after.run(*args)
    assert float((a - b).abs().max()) <= 0.05 * float(a.abs().max())
    return after


def counts(program):
    found = op_counts(program)
    return {name: found[name] for name in found if name not in ("quantize", "dequantize")}


def reasons(program):
    return [text for record in program.history if record.name == "adopt-qdq" for text in record.skipped]


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_with_clamp(groups):
    weight, bias = on_grid(4, 4 // groups, 3, 3), torch.randn(4)
    after = adopted(
        lambda x: marked(F.relu6(F.conv2d(marked(x), weight, bias, 1, 1, 1, groups)), 0.1, -128),
        torch.randn(1, 4, 5, 5),
    )
    assert op_counts(after) == {"quantize": 1, "quantized_conv": 1, "dequantize": 1}
    (node,) = [node for node in after.nodes if "quantized_conv" in str(node.target)]
    assert node.args[11:13] == (-128, -68)  # 0 and 6 in steps of 0.1 from -128


def test_linear_whose_result_is_float32():
    weight = on_grid(3, 6)
    after = adopted(lambda x: F.linear(marked(x), weight), torch.randn(2, 6))
    assert op_counts(after) == {"quantize": 1, "quantized_linear_float": 1}


def test_activation_without_a_scale_before_it_stays_float32():
    weight = on_grid(3, 6)
    after = adopted(lambda x: marked(F.silu(F.linear(marked(x), weight))), torch.randn(2, 6))
    assert op_counts(after) == {"quantize": 2, "quantized_linear_float": 1, "dequantize": 1}


def test_activation_between_scales_is_a_table():
    weight = on_grid(3, 6)
    after = adopted(lambda x: marked(F.silu(marked(F.linear(marked(x), weight), 0.2))), torch.randn(2, 6))
    assert counts(after) == {"quantized_linear": 1, "lookup": 1}


@pytest.mark.parametrize("is_marked", [True, False])
def test_residual(is_marked):
    weight = on_grid(6, 6)
    after = adopted(
        lambda x, r: marked(F.linear(marked(x), weight) + (marked(r) if is_marked else r), 0.4),
        *(torch.randn(2, 6), torch.randn(2, 6)),
    )
    assert counts(after) == {"quantized_linear" if is_marked else "quantized_linear_float": 1}


def test_sum_and_relu():
    x = torch.randn(2, 8)
    after = adopted(lambda x, y: marked(torch.relu(marked(x) + marked(y, 0.07)), 0.06, -128), x, torch.randn(2, 8))
    assert op_counts(after) == {"quantize": 2, "quantized_add": 1, "dequantize": 1}


def test_what_moves_or_pools_integers_needs_no_scale_of_its_own():
    def function(x):
        y = F.max_pool2d(marked(x), 2)
        return marked(F.avg_pool2d(torch.cat([y, y], 1), 2))

    after = adopted(function, torch.randn(1, 3, 8, 8))
    assert counts(after) == {"quantized_max_pool": 1, "cat": 1, "quantized_avg_pool": 1}


def test_product_of_computed_values():
    after = adopted(lambda x, y: marked(marked(x) @ marked(y), 0.4), torch.randn(2, 3, 4), torch.randn(2, 4, 3))
    assert counts(after) == {"quantized_matmul": 1}


def test_marks_lie_on_both_sides_of_a_layout():
    weight = on_grid(4, 4, 1, 1)

    def function(x):
        q = ops.quantize(x, 0.05, -3).permute(0, 2, 3, 1)
        return ops.conv(ops.dequantize(q, 0.05, -3), weight, None, None, [1, 1], [0] * 4, [1, 1], 1, "none", True)

    assert counts(adopted(function, torch.randn(1, 4, 3, 3))) == {"permute": 1, "quantized_conv_float": 1}


def test_program_without_marks_is_left_alone():
    weight = on_grid(3, 6)
    before = PassManager(BEFORE).run(trace(lambda x: F.linear(x, weight), torch.randn(2, 6)))
    after = check_pass("adopt-qdq", before)
    assert op_counts(after) == {"linear": 1}
    assert reasons(after) == []


def test_integers_of_integer_ops_are_no_marks():
    """What fxpress.quantize left in float32 on purpose stays so."""
    weight = on_grid(6, 6)
    integers, scale, bias = torch.ones(6, 6, dtype=torch.int8), torch.ones(6), torch.zeros(6, dtype=torch.int32)

    def function(x):
        q = ops.quantized_linear(
            ops.quantize(x, 0.05, 0), integers, bias, None, scale, 0.05, 0, 1.0, 0, 0.1, 0, -128, 127, "F"
        )
        return F.linear(ops.dequantize(q, 0.1, 0), weight)

    before = PassManager(BEFORE).run(trace(function, torch.randn(2, 6)))
    assert counts(check_pass("adopt-qdq", before)) == {"quantized_linear": 1, "linear": 1}


ANY, GRID, ONE_ROW, HUGE = torch.randn(3, 6), on_grid(3, 6), on_grid(1, 6), torch.full((3,), 5e6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda x: F.linear(marked(x), ANY),
            "its weights are not quantised to 8 bits, symmetrically in each output channel",
        ),
        (
            lambda x: marked(marked(x).sum(1)) + F.linear(x, ONE_ROW)[:, 0],
            "its weights are quantised, but its input is not",
        ),
        (lambda x: marked(x) + marked(x, 0.1), "its result is not quantised"),
        (lambda x: marked(F.max_pool1d(marked(x), 2), 0.11), "its operands and its result have different scales"),
        (
            lambda x: F.linear(marked(x), GRID, HUGE),
            ", more than 32 bits hold",
        ),
    ],
)
def test_what_does_not_fit_stays_float32_and_is_reported(function, reason):
    before = PassManager(BEFORE).run(trace(function, torch.randn(2, 6)))
    after = check_pass("adopt-qdq", before)
    assert not any("quantized_" in name for name in op_counts(after))
    assert any(text.endswith(reason) for text in reasons(after)), reasons(after)


@given(oc=st.integers(1, 5), k=st.integers(1, 200), seed=st.integers(0, 1000))
def test_grid_is_found_again(oc, k, seed):
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(-127, 128, (oc, k), generator=generator)
    scale = torch.rand(oc, 1, generator=generator) + 1e-3
    weight = integers * scale
    found_scale, found = grid_of(weight)
    assert torch.allclose(found * found_scale[:, None], weight, rtol=1e-6, atol=0)
    assert int(found.abs().max()) <= 127


def test_grid_of_rows_of_zeros_and_of_minus_128():
    scale, integers = grid_of(torch.tensor([[0.0, 0.0], [-1.28, 0.43]]))
    assert scale[0] == 1
    assert integers.tolist() == [[0, 0], [-127, 43]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_grid_needs_finite_weights(bad):
    assert grid_of(torch.tensor([[1.0, bad]])) is None
