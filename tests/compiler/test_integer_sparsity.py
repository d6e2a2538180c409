"""How int8 weights are best stored, from their numbers and the rows of the layers that use them."""

from __future__ import annotations

import pytest
import torch
from fxpress.integer_sparsity import find_pattern, integer_form, stored_share
from fxpress.sparsity import Use
from fxpress.target import Target

VNNI = Target.parse("cpu{isa=avx512,extensions=vnni}")
VBMI2 = Target.parse("cpu{isa=avx512,extensions=vnni+vbmi2}")
PLAIN = Target.parse("cpu{isa=avx2}")


def weight(n=64, k=128):
    """Weights without a zero."""
    return torch.randint(1, 128, (n, k), generator=torch.Generator().manual_seed(0), dtype=torch.int8)


def some(n, m):
    """n of each m weights, which of them is another in each row."""
    return weight() * ((torch.arange(64)[:, None] + torch.arange(128)) % m < n)


def blocks(r, c, left):
    """The first `left` of each four blocks of r x c, which of them is another in each row of blocks."""
    rows, columns = torch.arange(64)[:, None] // r, torch.arange(128) // c
    return weight() * ((rows + columns) % 4 < left)


@pytest.mark.parametrize(("n", "m", "share"), [(1, 4, 0.3125), (4, 16, 0.375), (2, 4, 0.625), (4, 8, 0.75)])
def test_patterns_are_found_with_what_they_store(n, m, share):
    assert find_pattern(some(n, m)) == (n, m)
    assert stored_share((n, m)) == share


@pytest.mark.parametrize(("n", "m", "found"), [(1, 2, (2, 4)), (1, 16, (1, 4)), (3, 16, (4, 16)), (3, 4, None)])
def test_what_keeps_a_pattern_need_not_be_made_for_it(n, m, found):
    assert find_pattern(some(n, m)) == found


def test_a_weight_whose_last_group_is_not_whole():
    assert find_pattern(some(2, 4)[:, :126]) == (2, 4)


@pytest.mark.parametrize("target", [VNNI, PLAIN])
@pytest.mark.parametrize("rows", [1, 500])
def test_blocks(target, rows):
    form = integer_form(blocks(16, 4, 1), [Use(True, rows)], target)
    assert form is not None
    assert (form.r, form.c) == (target.vector.lanes, 4)
    assert form.why.startswith("25.0% of its ")


def test_narrow_blocks_are_joined_while_that_leaves_few():
    lot = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)).repeat_interleave(16, 0).repeat_interleave(2, 1)
    assert integer_form(weight() * (lot < 0.2), [Use(True, 1)], VNNI).c == 4
    assert integer_form(weight() * (lot < 0.7), [Use(True, 1)], VNNI) is None


@pytest.mark.parametrize(
    ("pattern", "rows", "target", "pays"),
    [
        ((2, 4), 1, VNNI, True),
        ((2, 4), 64, VNNI, False),
        ((2, 4), 64, PLAIN, True),
        ((4, 8), 1, VNNI, True),
        ((1, 4), 64, VNNI, True),
        ((4, 16), 64, VNNI, True),
        ((3, 4), 1, VNNI, False),
    ],
)
def test_patterns_pay_where_they_save_dot_products_or_memory(pattern, rows, target, pays):
    form = integer_form(some(*pattern), [Use(False, rows)], target)
    assert (form is not None) is pays
    assert form is None or form.why.startswith("at most {} of {} weights are left".format(*pattern))


def test_all_layers_must_gain():
    assert integer_form(some(2, 4), [Use(True, 1), Use(True, 64)], VNNI) is None
    assert integer_form(blocks(16, 4, 1), [Use(False, 1), Use(False, 1, groups=2)], VNNI) is None


@pytest.mark.parametrize(
    ("target", "rows", "streamed", "pays"),
    [(VBMI2, 1, True, True), (VBMI2, 1, False, False), (VBMI2, 9, True, False), (VNNI, 1, True, False)],
)
def test_zeros_anywhere(target, rows, streamed, pays):
    form = integer_form(some(4, 7), [Use(True, rows, streamed=streamed)], target)
    assert (form is not None) is pays
    assert form is None or form.why == "57.2% of it is left, which a few rows read sooner than all"


def test_nothing_left_and_nothing_gone():
    assert integer_form(weight() * 0, [Use(True, 1)], VNNI).why.startswith("0.0% of its ")
    assert integer_form(weight(), [Use(True, 1, streamed=True)], VBMI2) is None
