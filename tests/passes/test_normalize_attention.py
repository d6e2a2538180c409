"""Attention gets four dims and one batch size."""

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace
from torch.nn import functional as F


@pytest.mark.parametrize(
    ("q", "k", "mask"),
    [
        ((2, 3, 4, 5, 8), (2, 3, 4, 6, 8), None),
        ((2, 3, 4, 5, 8), (2, 3, 4, 6, 8), (3, 1, 5, 6)),
        ((2, 3, 4, 5, 8), (2, 3, 4, 6, 8), (1, 1, 1, 5, 6)),
        ((5, 8), (6, 8), (5, 6)),
        ((3, 4, 5, 8), (1, 4, 6, 8), None),
    ],
)
def test_dims_and_batches(q, k, mask):
    inputs = [torch.randn(size) for size in (q, k, mask) if size is not None]
    before = trace(lambda q, k, mask=None: F.scaled_dot_product_attention(q, k, k * 2, mask), *inputs)
    after = check_pass("normalize-attention", before)
    attention = next(n for n in after.nodes if "scaled_dot_product" in str(n.target))
    assert [n.meta["val"].dim() for n in attention.args[:3]] == [4, 4, 4]
    assert len({n.meta["val"].shape[0] for n in attention.args[:3]}) == 1


def test_usual_attention_stays():
    before = trace(lambda q: F.scaled_dot_product_attention(q, q, q), torch.randn(2, 3, 5, 8))
    assert op_counts(check_pass("normalize-attention", before)) == {"scaled_dot_product_attention": 1}
