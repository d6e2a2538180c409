"""One small function for each op the TVM backend lowers, so that a single test can compare them all with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


X = rand(2, 5, 7)
IMAGE = rand(2, 6, 9, 11)

CASES: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "permute": (lambda x: x.permute(2, 0, 1), (X,)),
    "transpose-reshape": (lambda x: x.transpose(1, 2).reshape(2, 35), (X,)),
    "reshape-free": (lambda x: x.reshape(10, 7).reshape(2, 5, 7) + 1, (X,)),
    "slice-step": (lambda x: x[:, 1:5:2, -3:], (X,)),
    "select": (lambda x: x[:, -2] * 2, (X,)),
    "split": (lambda x: [y * 2 for y in x.split([2, 3], dim=1)], (X,)),
    "chunk": (lambda x: x.chunk(2, dim=-1), (X,)),
    "unbind": (lambda x: x.unbind(1)[3] + 1, (X,)),
    "expand": (lambda x: x[:, :1].expand(2, 4, 7) + 0.5, (X,)),
    "squeeze": (lambda x: x[:, :1].squeeze(1).unsqueeze(0), (X,)),
    "unfold": (lambda x: x.unfold(2, 3, 2) + 0, (X,)),
    "cat": (lambda x: torch.cat([x * 2, x, x.relu()], dim=1), (X,)),
    "cat-last": (lambda x: torch.cat([x.exp(), x[:, :, :3], x.tanh()], dim=-1), (X,)),
    "cat-twice": (lambda x: (lambda y: torch.cat([y, y], dim=0))(x + 1), (X,)),
    "cat-of-cats": (lambda x: torch.cat([torch.cat([x + 1, x * 3], dim=0), x - 1], dim=0), (X,)),
    "stack": (lambda x: torch.stack([x, x + 1], dim=2), (X,)),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 3), value=-1.5), (X,)),
    "pad-negative": (lambda x: F.pad(x, (-1, 2, 1, -3)), (X,)),
    "reflect": (lambda x: F.pad(x, (2, 3), mode="reflect"), (X,)),
    "reflect-2d": (lambda x: F.pad(x, (2, 3, 1, 4), mode="reflect"), (IMAGE,)),
    "replicate-2d": (lambda x: F.pad(x, (2, 0, 1, 4), mode="replicate"), (IMAGE,)),
    "repeat": (lambda x: x.repeat(2, 1, 3, 2), (X,)),
    "flip": (lambda x: x.flip(0, 2), (X,)),
    "roll": (lambda x: x.roll((1, -2), (1, 2)), (X,)),
    "roll-flat": (lambda x: x.roll(3), (X,)),
    "pixel-shuffle": (lambda x: F.pixel_shuffle(x, 2), (rand(2, 8, 3, 5),)),
    "pixel-unshuffle": (lambda x: F.pixel_unshuffle(x, 2), (rand(2, 3, 4, 6),)),
    "channel-shuffle": (lambda x: F.channel_shuffle(x, 3), (IMAGE,)),
    "slice-scatter": (lambda x: torch.slice_scatter(x, x[:, :2] * 0, 1, 1, 5, 2), (X,)),
    "select-scatter": (lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 3), (X,)),
    "arithmetic": (lambda x: (x * 2 - 1) / (x.abs() + 3) + 0.25 * x, (X,)),
    "broadcast": (lambda x: x * x[:, :1] + x[0, 0], (X,)),
    "alpha": (lambda x: torch.add(x, x.relu(), alpha=2) - torch.sub(x, 3, alpha=0.5), (X,)),
    "rsub": (lambda x: 3 - x, (X,)),
    "compare": (lambda x: (x > 0.5) & (x <= 1.5) | (x == 0), (X,)),
    "where": (lambda x: torch.where(x > 0, x, x * 0.1), (X,)),
    "masked-fill": (lambda x: x.masked_fill(x > 0, float("-inf")), (X,)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0) + x.clamp(max=0.25), (X,)),
    "integers": (lambda x: (x * 7) // 3 + x % 5 - (x >> 1), (torch.arange(-20, 20).reshape(5, 8),)),
    "to-int": (lambda x: (x * 10).to(torch.int32) + 1, (X,)),
    "to-bool": (lambda x: (x * 10).int().bool(), (X,)),
    "integer-division": (lambda x: x / 7, (torch.arange(-20, 20),)),
    "int-compare-float": (lambda x: x > 2.5, (torch.arange(6),)),
    "pow": (lambda x: x**2 + x**3 + x.abs() ** 0.5 + x.abs() ** 1.7 + 2.0**x, (X,)),
    "log-exp": (lambda x: x.exp().log1p() + (x.abs() + 1).log() + x.expm1(), (X,)),
    "sin-cos": (lambda x: x.sin() * (x * 100).cos(), (X,)),
    "activations": (
        lambda x: F.gelu(x) + F.gelu(x, approximate="tanh") + F.silu(x) + F.hardswish(x) + F.hardsigmoid(x)
        + x.sigmoid() + x.tanh() + F.mish(x) + F.softplus(x) + F.elu(x) + F.leaky_relu(x, 0.2) + F.relu6(x),
        (X,),
    ),
    "selu-celu": (lambda x: F.selu(x) + F.celu(x, 0.7), (X,)),
    "prelu": (lambda x, w: F.prelu(x, w), (X, rand(5))),
    "nan": (lambda x: torch.relu(x) + x.clamp(0, 1), (torch.tensor([float("nan"), float("inf"), -1.0, 2.0]),)),
    "nan-to-num": (lambda x: torch.nan_to_num(x, 5.0, 7.0, -7.0), (torch.tensor([float("nan"), float("-inf"), 1.0]),)),
    "isnan": (lambda x: x.isnan() | x.isinf(), (torch.tensor([float("nan"), float("inf"), 1.0]),)),
    "full": (lambda x: x + torch.full((7,), 2.5), (X,)),
    "arange": (lambda x: x + torch.arange(3, 17, 2), (X,)),
    "triangle": (lambda x: x.tril(-1) + x.triu(2), (X,)),
    "causal-mask": (lambda x: x.masked_fill(torch.ones(5, 7).triu(1).bool(), 0.0), (X,)),
    "addcmul": (lambda x: torch.addcmul(x, x, x.relu(), value=0.5) + torch.lerp(x, x * 2, 0.3), (X,)),
    "shared": (lambda x: (lambda y: y * y.sigmoid() + y.relu())(x + 1), (X,)),
    "matmul": (lambda x: x @ x.transpose(1, 2), (X,)),
    "matmul-vector": (lambda x, v: x @ v, (X, rand(7))),
    "vector-matmul": (lambda x, v: v @ x, (X, rand(5))),
    "matmul-broadcast": (lambda x, w: x @ w, (X, rand(3, 1, 7, 4))),
    "bmm": (lambda x: torch.bmm(x, x.transpose(1, 2)), (X,)),
    "attention": (lambda q, k: F.scaled_dot_product_attention(q, k, k), (rand(2, 3, 5, 8), rand(2, 3, 9, 8))),
    "attention-causal": (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), (rand(2, 3, 5, 8),)),
    "attention-mask": (
        lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m), (rand(2, 3, 5, 8), rand(2, 1, 5, 5))
    ),
    "attention-bool": (
        lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m > -1), (rand(2, 3, 5, 8), rand(5, 5))
    ),
    "attention-heads": (
        lambda x: F.scaled_dot_product_attention(*(x.view(2, 5, 4, 2, 8).permute(3, 0, 2, 1, 4)[i] for i in (0, 1, 1)))
        .transpose(1, 2).reshape(2, 5, 32),
        (rand(2, 5, 64),),
    ),
    "result-is-input": (lambda x: (x, x + 1), (X,)),
    "result-twice": (lambda x: (lambda y: (y, y))(x + 1), (X,)),
    "empty": (lambda x: x[:, :0] + 1, (X,)),
    "scalar": (lambda x: x[0, 0, 0] * 2, (X,)),
}  # fmt: skip
