"""Layers on one input become one layer and slices of its result."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fxpress.pass_manager import PassManager
from fxpress.program import Program
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st


def merged(function, *inputs: torch.Tensor, before: str = "normalize-linear") -> Program:
    return check_pass("merge-qkv", PassManager(before).run(trace(function, *inputs)))


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def linears(program: Program) -> int:
    return op_counts(program)["linear"]


X = weight(2, 3, 8)
A, B, C = weight(8, 8), weight(4, 8), weight(4, 8) + 1


def test_program_text():
    bias = weight(8)
    program = merged(lambda x: F.linear(x, A, bias)[..., :4] * F.linear(x, B), X)
    lines = [line for line in program.text().splitlines() if not line.endswith("= constant")]
    assert (
        lines[1:4]
        == [
            "%linear_2: float32[2, 3, 12] = fxpress.linear.default(%args_0, %lifted_tensor_0_merged, "
            "%lifted_tensor_1_merged, None, 'none')",
            "%slice_2: float32[2, 3, 8] = aten.slice.Tensor(%linear_2, 2, 0, 8)",
            "%slice_3: float32[2, 3, 4] = aten.slice.Tensor(%linear_2, 2, 8, 12)",
        ]
        or "constant" in program.text()
    )
    assert linears(program) == 1


def test_attention():
    def attention(x):
        q, k, v = (F.linear(x, w).reshape(2, 3, 2, -1).transpose(1, 2) for w in (B, C, A))
        return F.scaled_dot_product_attention(q, k, v)

    assert linears(merged(attention, X)) == 1


def test_layers_after_a_product_of_the_first_stay():
    def attention(x):
        a = F.linear(x, A)
        scores = (a @ a.mT).softmax(-1)
        return scores @ F.linear(x, B)

    assert linears(merged(attention, X)) == 2


def test_other_input_stays():
    assert linears(merged(lambda x, y: F.linear(x, B) * F.linear(y, C), X, X + 1)) == 2


def test_activation_stays():
    program = merged(lambda x: F.silu(F.linear(x, B)) * F.linear(x, C), X, before="normalize-linear,fuse-epilogue")
    assert linears(program) == 2


def test_shared_weight_stays():
    program = merged(lambda x, y: F.relu(F.linear(x, B)) * F.relu(F.linear(x, C)) + F.relu(F.linear(y, B)), X, X)
    assert linears(program) == 3
    assert any("stored twice" in reason for reason in program.history[-1].skipped)


def test_operand_of_a_layer_stays():
    program = merged(lambda x: F.linear(F.linear(x, A), B) + F.relu(F.linear(x, C)), X)
    assert linears(program) == 3


def test_result_of_the_program_stays():
    assert linears(merged(lambda x: (F.linear(x, B), F.linear(x, C)), X)) == 2


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=2, max_size=4), st.integers(1, 7))
def test_random_layers(layers, k):
    x = weight(3, k)
    parameters = [(weight(n, k), weight(n) if has_bias else None) for n, has_bias in layers]
    program = merged(lambda x: tuple(F.relu(F.linear(x, w, b)) for w, b in parameters), x)
    assert linears(program) == 1
