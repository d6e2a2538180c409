"""Patterns of zeros: how they are written, which candidates go, and that they come out as they were asked for."""

from __future__ import annotations

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.pruning.config import PRESETS, PruneConfig, config_of
from fxpress.passes.pruning.patterns import Blocks, NofM, parse_pattern
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

VALUES = torch.tensor([[3.0, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 9.0, 8.0, 7.0]])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("units", None),
        ("elements", Blocks(1, 1)),
        ("2:4", NofM(2, 4)),
        ("1:4", NofM(1, 4)),
        ("16x1", Blocks(16, 1)),
        ("blocks", Blocks(16, 4)),
    ],
)
def test_patterns_are_read(text, wanted):
    assert parse_pattern(text, Target.parse("cpu{isa=avx512}")) == wanted


def test_blocks_are_as_wide_as_the_vectors_of_the_target():
    assert parse_pattern("blocks", Target.parse("cpu{isa=avx2}")) == Blocks(8, 4)
    with pytest.raises(InvalidInput, match=r"^pattern must name its blocks, such as '16x4', for the target systolic"):
        parse_pattern("blocks", Target.parse("systolic"))


@pytest.mark.parametrize(
    "text",
    ["2:0", "0:4", "0x4", "4x0", "2:4:8", "x4", "2 : 4", "-1x4", "1.5x2", "", "99999x1", 4, None, ("2:4",), ["units"]],
)
def test_malformed_patterns_are_refused(text):
    with pytest.raises(InvalidInput, match=r"^pattern must be 'units', 'elements', 'blocks', N:M such as '2:4' or RxC"):
        PruneConfig(pattern=text)


@pytest.mark.parametrize("text", ["5:4", "4:4"])
def test_a_pattern_without_zeros_is_refused(text):
    with pytest.raises(InvalidInput, match=rf"^pattern N:M must keep fewer than all, N < M, not '{text}'$"):
        PruneConfig(pattern=text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "1:4", "ratio": 0.5}, r"^ratio must be 0\.75 with pattern='1:4', or left out, not 0\.5$"),
        ({"pattern": "2:4", "ranking": "global"}, r"^ranking must be 'local' and ratios empty with pattern='2:4'"),
        ({"pattern": "2:4", "ratios": {"0": 0.5}}, r"^ranking must be 'local' and ratios empty with pattern='2:4'"),
        ({"pattern": "elements", "multiple": 8}, r"^multiple must be 1 with pattern='elements'"),
        ({"pattern": "elements", "importance": "batch-norm"}, r"^importance must not be 'batch-norm' with pattern="),
        ({"reconstruct": True}, r"^reconstruct must be False with pattern='units'; it is for patterns of zeros$"),
        ({"pattern": "2:4", "reconstruct": "yes"}, r"^reconstruct must be True or False, not 'yes'$"),
        ({"pattern": "elements", "ratio": 1.0}, r"^ratio must be a number from 0 up to but not 1, not 1\.0$"),
    ],
)
def test_what_contradicts_a_pattern_is_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        PruneConfig(**options)


def test_ratios_that_patterns_have():
    assert [PruneConfig(pattern=text).goal for text in ("units", "elements", "2:4", "1:4")] == [0.5, 0.5, 0.5, 0.75]
    assert PruneConfig(pattern="1:3", ratio=2 / 3).goal == 2 / 3
    assert config_of("2:4", reconstruct=True).reconstruct
    assert PRESETS["blocks-75"].goal == 0.75
    assert str(PRESETS["2:4"]) == "pattern=2:4"


def test_n_of_m_keeps_the_largest_and_the_share_of_a_short_group():
    gone = NofM(2, 4).choose(VALUES, 0, 1.0)
    assert gone.int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1]]
    assert NofM(1, 4).choose(VALUES, 0, 1.0)[0, 8:].tolist() == [False, True, True]
    assert NofM(2, 4).choose(VALUES, 0, 0.5).sum(1).tolist() == [2]  # one of each four, none of the three


def test_blocks_go_whole_and_the_later_of_equals_first():
    values = torch.arange(35.0).reshape(5, 7)
    pattern = Blocks(2, 3)
    totals = pattern.total(values)
    assert totals.shape == (3, 3)
    assert float(totals.sum()) == float(values.sum())
    assert float(totals[2, 2]) == 34
    gone = pattern.choose(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 2, 1.0)
    assert gone.tolist() == [[False, True], [False, True]]
    assert pattern.spread(gone, 3, 4).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]


@given(
    keep=st.integers(1, 6), more=st.integers(1, 6), n=st.integers(1, 4), k=st.integers(1, 30), seed=st.integers(0, 99)
)
def test_n_of_m_holds_in_every_group(keep, more, n, k, seed):
    of = keep + more
    scores = torch.rand(n, k, generator=torch.Generator().manual_seed(seed))
    gone = NofM(keep, of).choose(scores, 0, 1.0)
    for start in range(0, k, of):
        size = min(of, k - start)
        group = gone[:, start : start + size]
        assert group.sum(1).tolist() == [size - -(-size * keep // of)] * n
        for row, each in zip(scores[:, start : start + size], group, strict=True):
            assert not each.any() or row[each].max() <= row[~each].min()


@given(
    rows=st.integers(1, 5), columns=st.integers(1, 5), n=st.integers(1, 12), k=st.integers(1, 12), share=st.floats(0, 1)
)
def test_blocks_cover_the_matrix_once(rows, columns, n, k, share):
    pattern = Blocks(rows, columns)
    totals = pattern.total(torch.ones(n, k))
    count = int(share * totals.numel())
    gone = pattern.choose(torch.rand(totals.shape), count, 1.0)
    assert int(gone.sum()) == count
    assert int(pattern.spread(gone, n, k).sum()) == int(totals[gone].sum())
