"""Attention on quantised values: both of its products with integers, the softmax between them in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from .library import define
from .quantized import product_sums, real
from .requantization import HIGHEST, LOWEST

WEIGHT_STEPS = 255
"""Attention weights are integers from 0 to this, which stands for the weight of a query's largest score."""


@define(
    "quantized_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, bool is_causal, float scale, "
    "bool enable_gqa, float query_scale, float key_scale, int key_zero, float value_scale, int value_zero, "
    "float y_scale, int y_zero) -> Tensor"
)
def _quantized_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float,
    enable_gqa: bool,
    query_scale: float,
    key_scale: float,
    key_zero: int,
    value_scale: float,
    value_zero: int,
    y_scale: float,
    y_zero: int,
) -> Tensor:
    """Scaled dot-product attention of int8 [batch, heads, rows, depth] (or without batch), with an int8 result.

    The zero point of the query is 0. Scores are float32(sum of products) * float32(query_scale * key_scale * scale),
    then masked as PyTorch's attention does. With top the largest score of a query, its weights are the integers
    round(exp(score - top) * 255), and its result is round(sum of weight * (value - value_zero) *
    (float32(value_scale / y_scale) / sum of weights)) + y_zero, limited to -128..127. A query that sees no key gives
    y_zero. Unlike other quantised ops this one computes an exponential in float32: backends may differ from it by one
    step of a weight, rarely.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    factor = (real(query_scale, query) * key_scale * scale).to(torch.float32)
    scores = product_sums(query, key.transpose(-1, -2), 0, key_zero).to(torch.float32) * factor
    if attn_mask is not None:
        hidden = attn_mask.dtype == torch.bool
        scores = torch.where(attn_mask, scores, float("-inf")) if hidden else scores + attn_mask.to(torch.float32)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = torch.where(seen, scores, float("-inf"))
    top = scores.amax(-1, keepdim=True)
    weights = torch.round(torch.exp(scores - top).nan_to_num(0.0) * WEIGHT_STEPS)  # NaN: no key is seen
    total = weights.sum(-1, keepdim=True)
    sums = product_sums(weights, value, 0, value_zero).to(torch.float32)
    share = (real(value_scale, value) / y_scale).to(torch.float32) / total
    y = torch.round(torch.where(total == 0, 0.0, sums * share)) + y_zero
    return y.clamp(LOWEST, HIGHEST).to(torch.int8)
