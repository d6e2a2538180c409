"""Pools in one spelling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st

POOLS = {
    "max_pool1d": (lambda x: F.max_pool1d(x, 2), "max_pool", (2, 3, 9)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1, dilation=1), "max_pool", (2, 3, 9, 8)),
    "max_pool2d unbatched": (lambda x: F.max_pool2d(x, 2, ceil_mode=True), "max_pool", (3, 9, 8)),
    "max_pool2d with unused indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool", (2, 3, 9, 8)),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), "avg_pool", (2, 3, 9)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), "avg_pool", (2, 3, 9, 8)),
    "avg_pool2d with divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "avg_pool", (2, 3, 9, 8)),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 4), "adaptive_avg_pool", (2, 3, 9)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 1), "adaptive_avg_pool", (2, 3, 9, 8)),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 4), "adaptive_max_pool", (2, 3, 9)),
    "max_pool3d": (lambda x: F.max_pool3d(x, (1, 2, 3), 2, (0, 1, 1), ceil_mode=True), "max_pool", (2, 3, 4, 9, 8)),
    "max_pool3d with unused indices": (
        lambda x: F.max_pool3d(x, 2, return_indices=True)[0], "max_pool", (1, 2, 4, 6, 5)
    ),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2, 1, 1, False, False, 5), "avg_pool", (3, 4, 9, 8)),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, (2, 1, 3)), "adaptive_avg_pool", (2, 3, 4, 9, 8)),
    "adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, 2), "adaptive_max_pool", (2, 3, 4, 9, 8)),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), "adaptive_max_pool", (2, 3, 9, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLS)
def test_pool(name):
    function, op, shape = POOLS[name]
    counts = op_counts(check_pass("normalize-pool", trace(function, torch.randn(shape))), full_names=True)
    assert counts.pop(f"fxpress.{op}.default") == 1
    assert set(counts) <= {"aten.unsqueeze.default", "aten.squeeze.dims"}


def test_used_indices_are_refused():
    program = trace(lambda x: F.max_pool2d(x, 2, return_indices=True), torch.randn(1, 2, 4, 4))
    record = check_pass("normalize-pool", program).history[-1]
    assert not record.changed
    assert "its indices are used" in record.skipped[0]


@given(size=st.integers(5, 11), kernel=st.integers(2, 4), stride=st.integers(1, 3), ceil=st.booleans())
def test_sizes(size, kernel, stride, ceil):
    program = trace(
        lambda x: (F.max_pool2d(x, kernel, stride, 1, ceil_mode=ceil), F.avg_pool2d(x, kernel, stride, 1, ceil)),
        torch.randn(1, 2, size, 7),
    )
    assert op_counts(check_pass("normalize-pool", program)) == {"max_pool": 1, "avg_pool": 1}
