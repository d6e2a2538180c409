"""Attention from its pieces: which forms are recognised, which are left alone, and that numbers hold."""

from __future__ import annotations

from math import inf, sqrt

import pytest
import torch
from fxpress.pass_manager import PassManager
from fxpress.program import Program
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st

LOW = torch.finfo(torch.float32).min


def recognized(function, *inputs: torch.Tensor) -> Program:
    return check_pass("recognize-attention", PassManager("compose-views,fold-constants").run(trace(function, *inputs)))


def operands(batch: int = 2, heads: int = 3, rows: int = 5, columns: int = 7, size: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, size), (columns, size), (columns, size))
    return [torch.randn(batch, heads, *shape, generator=generator) for shape in shapes]


def is_attention(program: Program) -> bool:
    counts = op_counts(program)
    attentions = counts.get("scaled_dot_product_attention", 0) + counts.get("attention", 0)
    return attentions == 1 and "softmax" not in counts and "matmul" not in counts


def attention_line(program: Program) -> str:
    return next(line for line in program.text().splitlines() if "attention.default(" in line)


def test_program_text():
    program = recognized(lambda q, k, v: (q @ k.mT * 0.5).softmax(-1) @ v, *operands())
    assert program.text() == (
        "%args_0: float32[2, 3, 5, 4] = input\n"
        "%args_1: float32[2, 3, 7, 4] = input\n"
        "%args_2: float32[2, 3, 7, 4] = input\n"
        "%scaled_dot_product_attention: float32[2, 3, 5, 4] = aten.scaled_dot_product_attention.default("
        "%args_0, %args_1, %args_2, None, 0.0, False, scale=0.5)\n"
        "return %scaled_dot_product_attention\n"
    )


SCALES = {
    "product divided": lambda q, k, v: ((q @ k.mT) / sqrt(4)).softmax(-1) @ v,
    "query scaled": lambda q, k, v: ((q * 0.5) @ k.mT).softmax(-1) @ v,
    "both scaled": lambda q, k, v: ((q * 0.5) @ (k / 2).mT).softmax(-1) @ v,
    "none": lambda q, k, v: (q @ k.mT).softmax(3) @ v,
    "einsum": lambda q, k, v: torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1) @ v,
}


@pytest.mark.parametrize("form", SCALES)
def test_scales(form):
    assert is_attention(recognized(SCALES[form], *operands()))


def test_scale_behind_views_is_found():
    def attention(q, k, v):
        heads = (q * 0.5).reshape(2, 5, 3, 4).transpose(1, 2)
        return (heads @ k.mT).softmax(-1) @ v

    _, k, v = operands()
    program = recognized(attention, torch.randn(2, 5, 12), k, v)
    assert "scale=0.5" in attention_line(program)
    assert "mul" not in op_counts(program)


def test_three_dims_become_four():
    q, k, v = (x[0] for x in operands())
    program = recognized(lambda q, k, v: torch.bmm((torch.bmm(q, k.mT) * 0.5).softmax(-1), v), q, k, v)
    assert "float32[1, 3, 5, 4] = aten.scaled" in attention_line(program)


def test_keys_shared_by_heads_are_expanded():
    q, k, v = operands()
    program = recognized(lambda q, k, v: (q @ k.mT).softmax(-1) @ v, q, k[:, :1].clone(), v[:, :1].clone())
    assert op_counts(program)["expand"] == 2


def test_constant_bias_is_the_mask():
    bias = torch.randn(1, 3, 5, 7)
    assert is_attention(recognized(lambda q, k, v: (q @ k.mT + bias).softmax(-1) @ v, *operands()))


def test_mask_computed_from_an_input():
    keep = torch.tensor([[True] * 5 + [False] * 2, [False] * 7])  # the second row hides everything

    def attention(q, k, v, keep):
        mask = torch.where(keep[:, None, None], 0.0, LOW)
        return (q @ k.mT * 0.5 + mask).softmax(-1) @ v

    assert is_attention(recognized(attention, *operands(), keep))


def test_scores_filled_with_a_low_number():
    keep = torch.tensor([[True] * 5 + [False] * 2, [False] * 7])
    program = recognized(
        lambda q, k, v, keep: torch.where(keep[:, None, None], q @ k.mT, LOW).softmax(-1) @ v, *operands(), keep
    )
    assert is_attention(program)


def test_bias_and_mask_over_windows():
    bias, windows = torch.randn(3, 5, 7), torch.zeros(2, 5, 7)
    windows[1, :, :3] = -100.0

    def attention(q, k, v):
        scores = q @ k.mT + bias
        scores = scores.reshape(2, 2, 3, 5, 7) + windows[:, None]
        return scores.reshape(4, 3, 5, 7).softmax(-1) @ v

    assert is_attention(recognized(attention, *operands(batch=4)))


def test_softmax_over_rows_is_left_alone():
    assert not is_attention(recognized(lambda q, k, v: (q @ k.mT).softmax(-2) @ v, *operands()))


def test_probabilities_used_elsewhere_are_left_alone():
    def attention(q, k, v):
        p = (q @ k.mT).softmax(-1)
        return p @ v, p

    program = recognized(attention, *operands())
    assert not is_attention(program)
    assert program.history[-1].skipped == ("%matmul_1: attention's probabilities are used elsewhere",)


def test_scores_used_elsewhere_are_left_alone():
    def attention(q, k, v):
        scores = q @ k.mT
        return scores.softmax(-1) @ v, scores

    assert not is_attention(recognized(attention, *operands()))


def test_scale_of_a_masked_score_is_left_alone():
    mask = torch.randn(5, 7)
    assert not is_attention(recognized(lambda q, k, v: ((q @ k.mT + mask) * 0.5).softmax(-1) @ v, *operands()))


def test_row_hidden_by_infinity():
    mask = torch.zeros(5, 7)
    mask[2] = -inf
    program = recognized(lambda q, k, v: (q @ k.mT + mask).softmax(-1) @ v, *operands())
    assert is_attention(program)
    assert program.run(*operands())[:, :, 2].isnan().all()


def test_row_partly_hidden_by_infinity():
    mask = torch.zeros(5, 7)
    mask[2, 1:] = -inf
    assert is_attention(recognized(lambda q, k, v: (q @ k.mT + mask).softmax(-1) @ v, *operands()))


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (2, 1, 1, 7), (3, 5, 7), (2, 3, 5, 7), (1, 1, 5, 1)])
def test_mask_that_is_an_input(shape):
    def attention(q, k, v, mask):
        return (q @ k.mT * 0.5 + (1 - mask) * LOW).softmax(-1) @ v

    assert is_attention(recognized(attention, *operands(), torch.ones(shape)))


def test_mask_that_hides_rows():
    mask = torch.zeros(5, 7)
    mask[1], mask[2], mask[3, 1:] = -inf, LOW, -inf
    program = recognized(lambda q, k, v, m: (q @ k.mT + m).softmax(-1) @ v, *operands(), mask)
    assert attention_line(program) == (
        "%attention: float32[2, 3, 5, 4] = fxpress.attention.default("
        "%args_0, %args_1, %args_2, %args_3, None, 1.0, False)"
    )


@pytest.mark.parametrize("fill", [-1e9, -100.0, -inf])
def test_scores_filled_with_a_number(fill):
    keep = torch.ones(5, 7, dtype=torch.bool)
    keep[1], keep[2, 3:] = False, False
    program = recognized(lambda q, k, v, m: (q @ k.mT).masked_fill(m == 0, fill).softmax(-1) @ v, *operands(), keep)
    assert attention_line(program) == (
        "%attention: float32[2, 3, 5, 4] = fxpress.attention.default("
        f"%args_0, %args_1, %args_2, %logical_not, {fill}, 1.0, False)"
    )


def test_hidden_scores_do_not_matter():
    q, k, v = operands()
    k[:, :, 2] = inf
    keep = torch.arange(7) != 2
    program = recognized(lambda q, k, v: torch.where(keep, q @ k.mT, -1e9).softmax(-1) @ v, q, k, v)
    assert is_attention(program)
    assert program.run(q, k, v).isfinite().all()


def test_fill_with_infinity_is_left_alone():
    keep = torch.ones(5, 7, dtype=torch.bool)
    program = recognized(lambda q, k, v, keep: torch.where(keep, q @ k.mT, inf).softmax(-1) @ v, *operands(), keep)
    assert not is_attention(program)


def test_mask_added_to_filled_scores_is_left_alone():
    def attention(q, k, v, keep, mask):
        return (torch.where(keep, q @ k.mT, -1e9) + mask).softmax(-1) @ v

    keep = torch.ones(5, 7, dtype=torch.bool)
    assert not is_attention(recognized(attention, *operands(), keep, torch.randn(5, 7)))


def test_bias_below_a_fill_is_left_alone():
    def attention(q, k, v, keep, mask):
        return torch.where(keep, q @ k.mT + mask, -1e9).softmax(-1) @ v

    keep = torch.ones(5, 7, dtype=torch.bool)
    assert not is_attention(recognized(attention, *operands(), keep, torch.randn(5, 7)))


@given(st.tuples(*[st.integers(1, 9)] * 5), st.sampled_from([None, "rows", "all"]), st.booleans())
def test_random_shapes(sizes, masked, scaled):
    rows, columns = sizes[2:4]
    shape = {None: None, "rows": (1, columns), "all": (sizes[0], 1, rows, columns)}[masked]
    mask = None if shape is None else torch.randn(shape)

    def attention(q, k, v):
        scores = q @ k.mT * 0.3 if scaled else q @ k.mT
        return (scores if mask is None else scores + mask).softmax(-1) @ v

    assert is_attention(recognized(attention, *operands(*sizes)))


def test_mask_out_of_a_split():
    def attend(q, gates):
        first, second = gates.split(1)
        return (q @ q.transpose(-1, -2) + first * second).softmax(-1) @ q

    before = trace(attend, torch.randn(1, 2, 5, 8), torch.randn(2, 1, 5, 5))
    assert is_attention(check_pass("recognize-attention", before))
