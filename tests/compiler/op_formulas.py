"""The fxpress:: ops as formulas in plain tensor arithmetic, channels first: what test_ops.py holds them to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def padded(x: Tensor, pairs: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with (before, after) more elements at the ends of each spatial dim."""
    sizes = [n + pairs[2 * d] + pairs[2 * d + 1] for d, n in enumerate(x.shape[2:])]
    result = x.new_full((*x.shape[:2], *sizes), value)
    result[(..., *(slice(pairs[2 * d], pairs[2 * d] + n) for d, n in enumerate(x.shape[2:])))] = x
    return result


def windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """[batch, channels, *positions, *kernel]."""
    for d, (k, s, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + d, gap * (k - 1) + 1, s)[..., ::gap]
    return x


def conv(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    dims = weight.dim() - 2
    seen = windows(padded(x, padding), weight.shape[2:], stride, dilation)
    parts = []
    for inputs, filters in zip(seen.chunk(groups, 1), weight.chunk(groups, 0), strict=True):
        inputs = inputs.movedim(1, 1 + dims).flatten(1 + dims)  # [batch, *positions, channels * kernel]
        parts.append((inputs @ filters.flatten(1).T).movedim(-1, 1))
    y = torch.cat(parts, 1)
    y = y if bias is None else y + bias.reshape(-1, *[1] * dims)
    return activated(y if residual is None else y + residual, activation)


def conv_transpose(x, weight, bias, stride, padding, output_padding, dilation, groups, activation):
    kernel, sizes = weight.shape[2:], x.shape[2:]
    full = [
        (n - 1) * s + g * (k - 1) + 1 + o
        for n, s, g, k, o in zip(sizes, stride, dilation, kernel, output_padding, strict=True)
    ]
    y = x.new_zeros(x.shape[0], weight.shape[1] * groups, *full)
    for place in itertools.product(*map(range, kernel)):
        part = [
            torch.einsum("bi...,io->bo...", inputs, filters[(..., *place)])
            for inputs, filters in zip(x.chunk(groups, 1), weight.chunk(groups, 0), strict=True)
        ]
        where = (
            slice(g * p, g * p + (n - 1) * s + 1, s) for p, g, n, s in zip(place, dilation, sizes, stride, strict=True)
        )
        y[(..., *where)] += torch.cat(part, 1)
    y = y[(..., *(slice(p, n - p) for p, n in zip(padding, full, strict=True)))]
    return activated(y if bias is None else y + bias.reshape(-1, *[1] * len(kernel)), activation)


def linear(x, weight, bias, residual, activation):
    y = torch.einsum("...k,nk->...n", x, weight)
    y = y if bias is None else y + bias
    return activated(y if residual is None else y + residual, activation)


def max_pool(x, kernel, stride, padding, dilation, ceil_mode):
    pairs = [p for side in padding for p in (side, side)]
    return windows(padded(x, pairs, -math.inf), kernel, stride, dilation).flatten(-len(kernel)).amax(-1)


def avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor):
    pairs = [p for side in padding for p in (side, side)]
    ones = [1] * len(kernel)
    total = windows(padded(x, pairs), kernel, stride, ones).flatten(-len(kernel)).sum(-1)
    counted = torch.ones_like(x) if not count_include_pad else torch.ones_like(padded(x, pairs))
    if not count_include_pad:
        counted = padded(counted, pairs)
    count = windows(counted, kernel, stride, ones).flatten(-len(kernel)).sum(-1)
    return total / (count if divisor is None else divisor)


def adaptive(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def pool(x: Tensor, size: Sequence[int]) -> Tensor:
        for d, n in enumerate(size, start=2):
            extent = x.shape[d]
            spans = [(i * extent // n, -(-(i + 1) * extent // n)) for i in range(n)]
            x = torch.stack([reduce(x.narrow(d, a, b - a), dim=d) for a, b in spans], d)
        return x

    return pool


def resize(x, size, scales, mode, align_corners):
    for d, n in enumerate(size):
        weights = resize_weights(x.shape[2 + d], n, None if scales is None else scales[d], mode, align_corners)
        x = (x.movedim(2 + d, -1) @ weights.T).movedim(-1, 2 + d)
    return x


def resize_weights(old: int, new: int, scale: float | None, mode: str, align_corners: bool) -> Tensor:
    """[new, old]: what each new element takes of each old one."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    step = old / new if scale is None else 1 / scale
    for i in range(new):
        if mode == "nearest":
            taps = {math.floor(i * step): 1.0}
        elif mode == "nearest-exact":
            taps = {math.floor((i + 0.5) * step): 1.0}
        else:
            at = i * (old - 1) / max(new - 1, 1) if align_corners else (i + 0.5) * step - 0.5
            at = at if mode == "bicubic" else max(at, 0.0)
            low, part = math.floor(at), at - math.floor(at)
            taps = (
                dict(zip(range(low - 1, low + 3), cubic(part), strict=True))
                if mode == "bicubic"
                else {low: 1 - part, low + 1: part}
            )
        for place, weight in taps.items():
            weights[i, min(max(place, 0), old - 1)] += weight
    return weights


def cubic(part: float) -> list[float]:
    """Keys' cubic convolution with a = -0.75 at distances 1 + part, part, 1 - part, 2 - part."""
    a = -0.75
    near = lambda d: ((a + 2) * d - (a + 3)) * d * d + 1  # noqa: E731
    far = lambda d: ((a * d - 5 * a) * d + 8 * a) * d - 4 * a  # noqa: E731
    return [far(1 + part), near(part), near(1 - part), far(2 - part)]


def attention(query, key, value, attn_mask, fill, scale, enable_gqa):
    groups = query.shape[1] // key.shape[1]
    heads = []
    for h in range(query.shape[1]):
        scores = query[:, h] @ key[:, h // groups].mT * scale
        mask = attn_mask.expand(*query.shape[:3], key.shape[2])[:, h]
        scores = scores + mask if fill is None else torch.where(mask, scores, fill)
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        heads.append(weights / weights.sum(-1, keepdim=True) @ value[:, h // groups])
    return torch.stack(heads, 1)


def group_norm(x, groups, weight, bias, eps):
    parts = x.reshape(x.shape[0], groups, -1)
    mean = parts.mean(-1, keepdim=True)
    variance = ((parts - mean) ** 2).mean(-1, keepdim=True)
    y = ((parts - mean) / (variance + eps).sqrt()).reshape(x.shape)
    along = (-1, *[1] * (x.dim() - 2))
    y = y if weight is None else y * weight.reshape(along)
    return y if bias is None else y + bias.reshape(along)


def activated(y: Tensor, name: str) -> Tensor:
    return {"none": y, "relu": y.clamp(min=0), "leaky_relu(0.1)": torch.where(y > 0, y, 0.1 * y)}[name]


FORMULAS = {
    "conv": conv, "conv_transpose": conv_transpose, "linear": linear, "max_pool": max_pool, "avg_pool": avg_pool,
    "adaptive_avg_pool": adaptive(torch.mean), "adaptive_max_pool": adaptive(torch.amax), "resize": resize,
    "attention": attention, "group_norm": group_norm,
}  # fmt: skip


def narrow(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`formula` in float64 of operands whose last argument is the dtype of the result."""

    def computed(*arguments):
        *operands, dtype = arguments
        wide = [a.double() if isinstance(a, Tensor) else a for a in operands]
        return formula(*wide).to(dtype)

    return computed


LOW_PRECISION_FORMULAS = {"narrow_linear": narrow(linear), "narrow_conv": narrow(conv)}
