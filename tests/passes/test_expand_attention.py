"""Attention becomes the two products, the mask and the softmax that it is made of."""

from __future__ import annotations

from math import inf

import pytest
import torch
from fxpress.ops import fxpress
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

attention = F.scaled_dot_product_attention
Q, K = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 6, 8)
CAUSAL = torch.ones(5, 6, dtype=torch.bool).tril()
HIDES_A_ROW = CAUSAL & (torch.arange(5) != 2)[:, None]


def expanded(function, *inputs):
    return check_pass("expand-attention", trace(function, *inputs))


def test_plain(golden):
    golden(expanded(lambda q, k: attention(q, k, k * 2), Q, K).text())


@pytest.mark.parametrize("mask", [CAUSAL, HIDES_A_ROW, HIDES_A_ROW.float().log()], ids=["causal", "row", "added"])
def test_masks_may_hide_all_keys(mask):
    computed = expanded(lambda q, k, mask: attention(q, k, k * 2, mask), Q, K, mask)
    assert op_counts(computed)["amax"] == 1
    constant = expanded(lambda q, k: attention(q, k, k * 2, mask), Q, K)
    assert op_counts(constant).get("amax", 0) == (mask is not CAUSAL)


def test_hidden_rows_are_zero():
    (found,) = expanded(lambda q, k, mask: attention(q, k, k, mask), Q, K, HIDES_A_ROW).run_flat(Q, K, HIDES_A_ROW)
    assert bool((found[..., 2, :] == 0).all())
    assert bool(found.isfinite().all())


def test_causal_scaled_and_grouped():
    after = expanded(lambda q, k: attention(q, k, k * 2, is_causal=True, scale=0.3), Q, K)
    assert op_counts(after)["where"] == 1
    q = torch.randn(2, 6, 5, 8)
    after = expanded(lambda q, k: attention(q, k, k * 2, enable_gqa=True), q, K)
    assert op_counts(after) == {"mul": 2, "reshape": 4, "expand": 2, "permute": 1, "matmul": 2, "softmax": 1}


@pytest.mark.parametrize("fill", [None, -1e9, -inf])
def test_attention_as_softmax_defines_it(fill):
    mask = CAUSAL if fill is not None else torch.where(CAUSAL, 0.5, -1e9)
    after = expanded(lambda q, k, m: fxpress.attention(q, k, k, m, fill, 1.0, False), Q, K, mask)
    assert op_counts(after).get("amax", 0) == op_counts(after).get("mul", 0) == 0


def test_sizes_that_vary_stay():
    import fxpress as package

    rows = torch.export.Dim("rows", min=2, max=64)
    before = package.capture(_Attention(), (Q,), dynamic_shapes={"q": {2: rows}})
    after = check_pass("expand-attention", before)
    assert after.text() == before.text()


class _Attention(torch.nn.Module):
    def forward(self, q):
        return attention(q, q, q)


@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3, 8]),
    st.sampled_from(["none", "causal", "bool", "float"]), st.booleans(),
)  # fmt: skip
def test_any_attention(batch, heads, rows, keys, depth, mask, scaled):
    q, k = torch.randn(batch, heads * 2, rows, depth), torch.randn(batch, heads, keys, depth)
    shown = torch.rand(rows, keys) > 0.4
    masks = {"bool": shown, "float": torch.where(shown, 0.0, -inf)}
    options = {"is_causal": mask == "causal", "scale": 0.7 if scaled else None, "enable_gqa": True}
    after = expanded(
        lambda q, k, *m: attention(q, k, k * 2, *m, **options), q, k, *([masks[mask]] if mask in masks else [])
    )
    assert "scaled_dot_product_attention" not in op_counts(after)
