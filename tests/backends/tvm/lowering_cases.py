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


def put(x: Tensor, where: Any, value: Any) -> Tensor:
    y = x.clone()
    y[where] = value
    return y


ALL = slice(None)
X = rand(2, 5, 7)
IMAGE = rand(2, 6, 9, 11)
VIDEO = rand(1, 4, 6, 7, 8)
UNIT = torch.tensor([0.0, 0.3, -0.69, 0.71, -0.9999, 1.0, -1.0, 1.5, float("nan")])

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
    "sum-mean": (lambda x: (x.sum(), x.mean(1), x.sum((0, 2), keepdim=True), x.mean((-1, -2))), (X,)),
    "extremes": (lambda x: (x.amax(1), x.amin((0, 1)), x.max(), *x.max(2), *x.min(0), x.argmax(), x.argmin(1)), (X,)),
    "spread": (lambda x: (x.var(1), x.std((0, 2), correction=0), torch.var_mean(x, -1)), (X,)),
    "norms": (lambda x: (x.norm(dim=1), x.norm(p=1, dim=-1), torch.linalg.vector_norm(x, float("inf"))), (X,)),
    "any-all": (lambda x: ((x > 0).any(1), (x > -9).all(), (x > 0).all(-1)), (X,)),
    "prod-logsumexp": (lambda x: (x.prod(1), x.logsumexp(-1)), (X,)),
    "sum-bool": (lambda x: (x > 0).sum(1), (X,)),
    "global-pool": (lambda x: x.mean((2, 3)), (IMAGE,)),
    "softmax": (lambda x: (x.softmax(-1), x.softmax(1), x.log_softmax(0)), (X,)),
    "layer-norm": (lambda x, w: F.layer_norm(x, (7,), w, w * 2), (X, rand(7))),
    "layer-norm-two": (lambda x: F.layer_norm(x.permute(1, 0, 2), (2, 7)), (X,)),
    "rms-norm": (lambda x, w: F.rms_norm(x, (7,), w, 1e-6), (X, rand(7))),
    "index-select": (lambda x: x.index_select(1, torch.tensor([3, 0, 4])), (X,)),
    "index-one": (lambda x: x[:, torch.tensor([[3, -1], [0, 2]])], (X,)),
    "index-two": (lambda x: x[torch.tensor([0, 1, 1]), torch.tensor([4, -5, 2])], (X,)),
    "index-pairs": (lambda x: x[torch.arange(2)[:, None], torch.tensor([[3, 1]])], (X,)),
    "index-middle": (lambda x: x[:, torch.tensor([1, 2]), torch.tensor([6, 0])], (X,)),
    "index-apart": (lambda x: x[torch.tensor([0, 1, 0]), :, torch.tensor([[4], [-5], [2]])], (X,)),
    "index-apart-inside": (lambda x: x[:, torch.tensor([0, 5]), :, torch.tensor([4, -5])], (IMAGE,)),
    "index-strided": (lambda x: x.transpose(1, 2)[:, torch.tensor([1, 2])], (X,)),
    "gather": (lambda x: x.gather(1, torch.tensor([[[0, 1, 4], [2, 2, 0]]])), (X,)),
    "cumsum": (lambda x: (x.cumsum(1), (x > 0).cumsum(-1)), (X,)),
    "scatter": (
        lambda x: (
            x.scatter(1, torch.tensor([[[0, 4, 2]]]).expand(2, 1, 3), x[:, :1, :3] * 0),
            x.scatter_add(1, torch.tensor([[[0, 4, 2]]]).expand(2, 1, 3), x[:, :1, :3]),
        ),
        (X,),
    ),
    "index-put": (lambda x: x[0].index_put((torch.tensor([0, 1]), torch.tensor([4, 2])), x[0, 0, :2] * 0), (X,)),
    "put-mask": (lambda x, m: (put(x, x > 0, 2.0), put(x, m, 1.5), put(x, (ALL, m[0]), x[0, 0])), (X, rand(2, 5) > 0)),
    "put-rows": (lambda x: put(x, torch.tensor([1, 0]), x * 2), (X,)),
    "put-columns": (lambda x: put(x, (ALL, ALL, torch.tensor([0, -1])), x[:, :, :2] * 2), (X,)),
    "put-apart": (lambda x: put(x, (torch.tensor([0, 1]), ALL, torch.tensor([0, 2])), x[:, :, 0] * 2), (X,)),
    "put-flat": (lambda x: x.put(torch.tensor([3, 0, 20]), x[0, 0, :3]), (X,)),
    "index-add": (lambda x: x.index_add(1, torch.tensor([1, 1, 4]), x[:, :3]), (X,)),
    "index-add-one": (lambda x: x.index_add(0, torch.zeros(5000, dtype=torch.int64), x.new_ones(5000)), (rand(3),)),
    "index-copy-fill": (
        lambda x: (x.index_copy(1, torch.tensor([1, 4]), x[:, :2]), x.index_fill(2, torch.tensor([0]), 3.0)), (X,)
    ),
    "masked-scatter": (lambda x: x.masked_scatter(x[:, :1] > 0, x.flatten() * 2), (X,)),
    "scatter-value": (lambda x: x.scatter(1, torch.tensor([[[0, 4, 2]]]).expand(2, 1, 3), 1.5), (X,)),
    "scatter-reduce": (
        lambda x: [
            x.scatter_reduce(1, i.expand(2, 2, 3), x[:, :2, :3], op, include_self=own)
            for i in [torch.tensor([[[0, 4, 0], [0, 4, 2]]])]
            for op in ("sum", "mean", "prod", "amax", "amin")
            for own in (True, False)
        ],
        (X,),
    ),
    "scatter-nan": (
        lambda x: [x.scatter_reduce(0, torch.tensor([0, 1]), x[1:] * 2, op) for op in ("amax", "amin", "sum")],
        (torch.tensor([1.0, float("nan"), 3.0]),),
    ),
    "diagonal": (lambda x: (x.diagonal(1, 1, 2) * 2, x.diagonal(-2, 2, 1) + 0, torch.trace(x[0])), (X,)),
    "as-strided": (lambda x: x.as_strided((3, 4), (7, 2), 3) + 1, (X,)),
    "fold": (
        lambda x: (F.fold(x, (5, 6), (2, 3)), F.fold(x[:, :, :9], (5, 6), (2, 3), stride=2, padding=1)),
        (rand(2, 12, 16),),
    ),
    "im2col": (lambda x: F.unfold(x, 3, padding=1, stride=2), (IMAGE,)),
    "grid-sample": (
        lambda x, g: (
            F.grid_sample(x, g, align_corners=False),
            F.grid_sample(x, g, "nearest", "border", align_corners=True),
            F.grid_sample(x, g, "bicubic", "reflection", align_corners=False),
        ),
        (IMAGE, rand(2, 4, 5, 2)),
    ),
    "affine-grid": (lambda t: F.affine_grid(t, [2, 3, 4, 5], align_corners=False), (rand(2, 2, 3),)),
    "norm-orders": (lambda x: [torch.linalg.vector_norm(x, p, 1) for p in (0, 3, 2.5, float("-inf"))], (X,)),
    "distances": (lambda x: (torch.cdist(x, x + 1), torch.cdist(x, x + 1, p=1.0)), (X,)),
    "running-extremes": (lambda x: (*x.cummax(1), *x.cummin(-1), *x.round().cummax(1)), (X,)),
    "running-infinities": (
        lambda x: (*x.cummax(0), *x.cummin(0)), (torch.tensor([float("-inf"), float("-inf"), 2.0, 2.0, float("inf")]),)
    ),
    "log-cumsum-exp": (lambda x: x.logcumsumexp(1), (X,)),
    "search": (
        lambda x: (
            torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5])),
            torch.searchsorted(torch.tensor([-1.0, 0.0, 0.5]), x, right=True, out_int32=True),
            torch.searchsorted(x.sort(-1).values, x[:, :, :3].contiguous()),
        ),
        (X,),
    ),
    "search-nan": (lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.5])), (torch.tensor([float("nan"), 0.5, 9.0]),)),
    "median": (lambda x: (x.median(), *x.median(1), *x.kthvalue(2, 1, keepdim=True)), (X,)),
    "median-nan": (lambda x: x.median(), (torch.tensor([1.0, float("nan"), 2.0]),)),
    "quantile": (lambda x: x.quantile(0.3, dim=1), (X,)),
    "inverse-erf": (lambda x: torch.erfinv(x), (UNIT,)),
    "gamma": (lambda x: torch.lgamma(x.abs() + 0.1), (X,)),
    "remainders": (lambda x: torch.fmod(x, 0.3) + torch.remainder(x, -0.3), (X,)),
    "round-to": (lambda x: x.round(decimals=1) + (x * 100).round(decimals=-1), (X,)),
    "ldexp": (lambda x: torch.ldexp(x, torch.tensor(3)), (X,)),
    "bits": (lambda i: ((i & 3) | (i ^ 5)) + (~i) + (i << 1), (torch.arange(-20, 20),)),
    "is-in": (lambda i: torch.isin(i, torch.tensor([1, 2, 7])), (torch.arange(-20, 20),)),
    "one-hot": (lambda i: F.one_hot(i, 7), (torch.tensor([3, 0, 6]),)),
    "repeat-interleave": (lambda x: x.repeat_interleave(3, 1), (X,)),
    "einsum": (
        lambda x, w: (torch.einsum("bij,kj->bik", x, w), torch.einsum("bij,kj,ib->k", x, w, x[:, :, 0].T)),
        (X, rand(4, 7)),
    ),
    "sort": (lambda x: (*x.sort(1), *x.sort(0, descending=True), *x.sort(dim=-1, stable=True)), (X,)),
    "sort-ties": (lambda x: (*x.sort(dim=-1, descending=True, stable=True),), (torch.arange(66).reshape(2, 33) % 5,)),
    "sort-nan": (
        lambda x: (*x.sort(stable=True), *x.sort(descending=True, stable=True)),
        (torch.tensor([float("nan"), -1.0, float("inf"), float("nan"), 2.0, float("-inf")]),),
    ),
    "argsort": (lambda x: x.transpose(0, 1).argsort(0), (X,)),
    "top-k": (lambda x: (*x.topk(3, -1), *x.topk(2, 1, largest=False), *x.topk(1, 0)), (X,)),
    "result-is-input": (lambda x: (x, x + 1), (X,)),
    "result-twice": (lambda x: (lambda y: (y, y))(x + 1), (X,)),
    "empty": (lambda x: x[:, :0] + 1, (X,)),
    "scalar": (lambda x: x[0, 0, 0] * 2, (X,)),
}  # fmt: skip


def sequential(*modules: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(*modules).eval()


nn = torch.nn


class Pairs(nn.Module):
    """A function of two tensors, given the same one twice."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, x)


MODULES: dict[str, tuple[torch.nn.Module, tuple[Tensor, ...]]] = {
    "linear": (nn.Linear(7, 20), (X,)),
    "linear-relu": (sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 3, bias=False), nn.GELU()), (X,)),
    "linear-strided": (sequential(nn.Flatten(2), nn.Linear(99, 5)), (IMAGE,)),
    "conv": (nn.Conv2d(6, 10, 3, padding=1), (IMAGE,)),
    "conv-chain": (
        sequential(nn.Conv2d(6, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 8, 1), nn.SiLU()),
        (IMAGE,),
    ),
    "conv-strided": (nn.Conv2d(6, 7, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (IMAGE,)),
    "conv-grouped": (nn.Conv2d(6, 12, 3, groups=3, padding=1), (IMAGE,)),
    "conv-depthwise": (nn.Conv2d(6, 6, 5, groups=6, padding=2, stride=2), (IMAGE,)),
    "conv-same": (nn.Conv2d(6, 5, 4, padding="same"), (IMAGE,)),
    "conv-1d": (sequential(nn.Conv1d(5, 9, 3, padding=1), nn.GELU(), nn.Conv1d(9, 4, 3, stride=2, padding=1)), (X,)),
    "conv-1d-depthwise": (nn.Conv1d(5, 5, 3, padding=1, groups=5), (X,)),
    "conv-transpose": (nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1), (IMAGE,)),
    "conv-transpose-grouped": (nn.ConvTranspose2d(6, 4, 4, stride=2, groups=2), (IMAGE,)),
    "conv-transpose-1d": (nn.ConvTranspose1d(5, 6, 4, stride=2, padding=1), (X,)),
    "conv-winograd": (
        sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 32, 3, padding=1)),
        (rand(1, 32, 14, 19),),
    ),
    "group-norm": (nn.GroupNorm(3, 6), (IMAGE,)),
    "group-norm-conv": (sequential(nn.Conv2d(6, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 3)), (IMAGE,)),
    "instance-norm": (nn.InstanceNorm2d(6), (IMAGE,)),
    "batch-norm": (sequential(nn.BatchNorm2d(6), nn.Sigmoid()), (IMAGE,)),
    "max-pool": (nn.MaxPool2d(3, 2, 1), (IMAGE,)),
    "max-pool-ceil": (nn.MaxPool2d(2, 2, ceil_mode=True, dilation=2), (IMAGE,)),
    "avg-pool": (nn.AvgPool2d(3, 2, 1), (IMAGE,)),
    "avg-pool-inside": (nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False, ceil_mode=True), (IMAGE,)),
    "pool-1d": (sequential(nn.MaxPool1d(3, 2), nn.AvgPool1d(2)), (X,)),
    "adaptive-pool": (sequential(nn.AdaptiveAvgPool2d((4, 3)), nn.AdaptiveMaxPool2d(2)), (IMAGE,)),
    "global-pool": (sequential(nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), (IMAGE,)),
    "upsample-nearest": (nn.Upsample(scale_factor=2), (IMAGE,)),
    "upsample-bilinear": (nn.Upsample(size=(13, 7), mode="bilinear"), (IMAGE,)),
    "upsample-corners": (nn.Upsample(scale_factor=1.7, mode="bilinear", align_corners=True), (IMAGE,)),
    "upsample-bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), (IMAGE,)),
    "upsample-linear": (nn.Upsample(scale_factor=2, mode="linear"), (X,)),
    "gru": (nn.GRU(7, 12, num_layers=2, bidirectional=True, batch_first=True), (X,)),
    "lstm": (nn.LSTM(7, 9, num_layers=2), (X,)),
    "conv-3d": (nn.Conv3d(4, 6, (3, 2, 3), stride=2, padding=1, groups=2), (VIDEO,)),
    "conv-transpose-3d": (nn.ConvTranspose3d(4, 5, 3, stride=2, padding=1, output_padding=1), (VIDEO,)),
    "max-pool-3d": (nn.MaxPool3d(3, 2, 1, ceil_mode=True), (VIDEO,)),
    "avg-pool-3d": (nn.AvgPool3d(3, 2, 1, count_include_pad=False), (VIDEO,)),
    "adaptive-pool-3d": (sequential(nn.AdaptiveAvgPool3d((4, 3, 2)), nn.AdaptiveMaxPool3d(2)), (VIDEO,)),
    "local-response-norm": (nn.LocalResponseNorm(3), (IMAGE,)),
    "upsample-nearest-3d": (nn.Upsample(scale_factor=2), (VIDEO,)),
    "upsample-nearest-exact": (nn.Upsample(scale_factor=1.5, mode="nearest-exact"), (IMAGE,)),
    "upsample-trilinear": (nn.Upsample(scale_factor=2, mode="trilinear"), (VIDEO,)),
    "embedding-bag": (nn.EmbeddingBag(11, 6, padding_idx=1), (torch.tensor([[0, 10, 3], [5, 1, 1], [1, 1, 1]]),)),
    "embedding-bag-max": (nn.EmbeddingBag(11, 6, mode="max"), (torch.tensor([0, 10, 3, 5]), torch.tensor([0, 1, 1]))),
    "embedding": (nn.Embedding(11, 6), (torch.tensor([[0, 10, 3], [5, 5, 1]]),)),
    "bilinear": (Pairs(nn.Bilinear(7, 7, 3)), (X,)),
    "computed-conv": (Pairs(F.conv2d), (rand(3, 3, 3, 3),)),
    "transformer": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval(), (rand(2, 5, 16),)),
}
"""Modules that the default pipeline normalises before they are lowered."""
