"""Masks that say nothing or causality, and heads shared by grouped queries."""

from __future__ import annotations

from math import inf

import pytest
import torch
import torch.nn.functional as F
from fxpress.pass_manager import PassManager
from fxpress.program import Program
from fxpress.testing import check_pass, trace


def simplified(function, *inputs: torch.Tensor) -> Program:
    before = PassManager("compose-views,fold-constants").run(trace(function, *inputs))
    return check_pass("simplify-mask,group-heads", before)


def operands(rows: int = 5, columns: int = 5, heads: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, rows, 8), (heads, columns, 8), (heads, columns, 8))
    return [torch.randn(2, *shape, generator=generator) for shape in shapes]


def call(program: Program) -> str:
    return next(line for line in program.text().splitlines() if "scaled_dot" in line).split("default(")[1]


LOWER = torch.ones(5, 5, dtype=torch.bool).tril()


@pytest.mark.parametrize("mask", [LOWER, torch.where(LOWER, 0.0, -inf), torch.where(LOWER, 0.0, -1e9)[None, None]])
def test_causal_mask(mask):
    program = simplified(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask), *operands(heads=4))
    assert call(program) == "%args_0, %args_1, %args_2, None, 0.0, True)"


@pytest.mark.parametrize("mask", [torch.zeros(5, 7), torch.ones(2, 1, 1, 7, dtype=torch.bool)])
def test_mask_that_hides_nothing(mask):
    q, k, v = operands(columns=7, heads=4)
    program = simplified(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask, scale=0.5), q, k, v)
    assert call(program) == "%args_0, %args_1, %args_2, None, 0.0, False, scale=0.5)"


@pytest.mark.parametrize(
    "mask", [LOWER & (torch.arange(5) != 1), torch.where(LOWER, 0.0, -100.0), torch.where(LOWER, 0.1, -inf), LOWER.mT]
)
def test_other_masks_stay(mask):
    program = simplified(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask), *operands(heads=4))
    assert not program.history[-2].changed


def filled(mask: torch.Tensor, fill: float) -> Program:
    def attention(q, k, v):
        return (q @ k.mT).masked_fill(~mask, fill).softmax(-1) @ v

    before = PassManager("compose-views,fold-constants,recognize-attention,fold-constants").run(
        trace(attention, *operands(heads=4))
    )
    return check_pass("simplify-mask", before)


@pytest.mark.parametrize("fill", [-1e9, -inf])
def test_filled_scores(fill):
    assert call(filled(LOWER, fill)) == "%args_0, %args_1, %args_2, None, 0.0, True, scale=1.0)"
    some = torch.ones(5, 5, dtype=torch.bool)
    some[1, 2:] = False
    assert call(filled(some, fill)).startswith("%args_0, %args_1, %args_2, %")


def test_filled_scores_stay():
    """A row without keys becomes their mean; a small number still has weight."""
    for mask, fill in ((torch.zeros(5, 5, dtype=torch.bool), -1e9), (LOWER, -100.0)):
        assert "fxpress.attention.default(" in filled(mask, fill).text()


def repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    b, heads, t, d = x.shape
    return x[:, :, None].expand(b, heads, times, t, d).reshape(b, heads * times, t, d)


def test_repeated_heads():
    program = simplified(
        lambda q, k, v: F.scaled_dot_product_attention(q, repeated(k, 2), repeated(v, 2), scale=0.5), *operands()
    )
    assert call(program) == "%args_0, %args_1, %args_2, None, 0.0, False, scale=0.5, enable_gqa=True)"


def test_one_head_for_all():
    program = simplified(
        lambda q, k, v: F.scaled_dot_product_attention(q, k.expand(-1, 4, -1, -1), v.expand(-1, 4, -1, -1)),
        *operands(heads=1),
    )
    assert "enable_gqa=True" in call(program)


def test_heads_repeated_in_another_order_stay():
    def interleaved(x):
        return x[:, None].expand(2, 2, 2, 5, 8).reshape(2, 4, 5, 8)

    program = simplified(lambda q, k, v: F.scaled_dot_product_attention(q, interleaved(k), interleaved(v)), *operands())
    assert "enable_gqa" not in call(program)


def test_keys_repeated_alone_stay():
    q, k, v = operands()
    program = simplified(
        lambda q, k, v: F.scaled_dot_product_attention(q, repeated(k, 2), v), q, k, torch.cat([v, v], 1)
    )
    assert "enable_gqa" not in call(program)
