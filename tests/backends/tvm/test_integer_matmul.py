"""Products of two activations of 8-bit integers, compiled: equal to their definition in every bit."""

import fxpress
import pytest
import torch
from fxpress.errors import Unsupported
from fxpress.testing import trace
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_cases import TARGETS, VALUES, integers
from single_op import check_all, check_equal, single_op

ops = torch.ops.fxpress


def matmul(a, b, *, mode="F", a_zero=-5, b_zero=0, a_values="random", b_values="random", high=127):
    arguments = {
        "a": integers(a, a_values),
        "a_scale": 0.02,
        "a_zero": a_zero,
        "b": integers(b, b_values, seed=7),
        "b_scale": 0.03,
        "b_zero": b_zero,
        "y_scale": 0.02 * 0.03 * 74 * 74 * a[-1] ** 0.5 / 60,
        "y_zero": 11,
        "low": -128,
        "high": high,
        "mode": mode,
    }
    op = ops.quantized_matmul_float if mode == "float" else ops.quantized_matmul
    return op.default, arguments


CASES = [
    matmul((2, 3, 17, 64), (2, 3, 64, 130)),
    matmul((5, 67), (67, 70), a_zero=-128, b_zero=127, mode="I", high=80),
    matmul((3, 1, 9, 32), (2, 32, 16), a_zero=127, b_zero=-128),
    matmul((7, 20), (20, 5), b_zero=-3, mode="float"),
    matmul((4, 33), (33,), b_zero=9),
    matmul((12,), (3, 12, 40), mode="float"),
    matmul((6, 260), (260, 64), a_zero=127, a_values="lowest", b_values="highest", b_zero=-128),
    matmul((6, 260), (260, 64), a_zero=-128, a_values="highest", b_values="highest", b_zero=-128, mode="float"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_cases(target):
    check_all(CASES, target)


@st.composite
def cases(draw):
    """Products of small, awkward sizes."""
    sizes = st.sampled_from([1, 2, 5, 16, 31, 64, 97])
    m, n, k, batch = draw(sizes), draw(sizes), draw(sizes), draw(st.integers(1, 3))
    zeros = st.sampled_from([-128, -1, 0, 127])
    return matmul(
        (batch, m, k),
        (draw(st.sampled_from([1, batch])), k, n),
        mode=draw(st.sampled_from(["F", "I", "float"])),
        a_zero=draw(zeros),
        b_zero=draw(zeros),
        a_values=draw(st.sampled_from(VALUES)),
        b_values=draw(st.sampled_from(VALUES)),
    )


@given(case=cases(), target=st.sampled_from(TARGETS))
@settings(max_examples=6)
def test_property(case, target):
    check_equal(*case, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("keys", "depth"), [(70, 64), (33, 20), (5, 6)])
def test_attention_reads_keys_and_heads_where_they_lie(keys, depth, target):
    """q @ k^T and p @ v on views: rows of k are dense along the depth, heads lie side by side."""

    def model(q, k, v):
        heads = [x.unflatten(1, (2, depth)).transpose(0, 1) for x in (q, k, v)]
        scores = ops.quantized_matmul(heads[0], heads[1].transpose(1, 2), 0.1, 3, 0.1, -4, 9.0, 5, -128, 127, "F")
        return ops.quantized_matmul_float(scores, heads[2], 0.1, 5, 0.1, 17), scores

    inputs = [integers((n, 2 * depth), seed=n) for n in (9, keys, keys)]
    artifact = fxpress.compile(trace(model, *inputs), pipeline="", target=target, self_test=False)
    for found, expected in zip(artifact(*inputs), model(*inputs), strict=True):
        assert torch.equal(torch.as_tensor(found), expected)


def refused(case):
    op, arguments = case
    with pytest.raises(Unsupported) as error:
        fxpress.compile(single_op(op, arguments), pipeline="", self_test=False)
    return str(error.value)


def test_sums_beyond_32_bits_are_refused():
    case = matmul((1, 33_026), (33_026, 1))
    assert "its depth must be less than 33025, not 33026: sums must fit 32 bits" in refused(case)


def test_other_dtypes_are_refused():
    op, arguments = matmul((2, 8), (8, 2))
    assert "its b must be torch.int8, not torch.int32" in refused((op, {**arguments, "b": arguments["b"].int()}))
