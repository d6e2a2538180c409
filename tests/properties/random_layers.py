"""Layers and blocks of layers as kinds of steps: what has weights, and the sequences that fusing passes look for."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from random_steps import STEPS as STEPS
from random_steps import Made, is_float, step
from torch import Tensor, nn

CHANNELS = (1, 2, 4, 7, 8, 16, 17)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
}


def activation(rng: random.Random) -> str:
    return rng.choice(sorted(ACTIVATIONS))


class Block(nn.Module):
    """act(norm(layer(pad(x))) + residual), each part optional."""

    def __init__(
        self, layer: nn.Module, norm: nn.Module, act: str, pad: list[int], residual: str, affine: bool
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.act = layer, norm, ACTIVATIONS[act]()
        self.pad, self.residual, self.affine = pad, residual, affine

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.layer(F.pad(x, self.pad) if self.pad else x))
        if self.affine:
            y = y * 1.5 + 0.25
        if self.residual == "before" and y.shape == x.shape:
            return self.act(y + x)
        y = self.act(y)
        return x + y if self.residual == "after" and y.shape == x.shape else y


def batch_norm(kind: Callable[[int], nn.Module], channels: int) -> nn.Module:
    """With statistics and weights that are not the neutral ones."""
    norm = kind(channels)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias)
    return norm


def convolution(rng: random.Random, x: Tensor, transposed: bool) -> Made:
    dims = x.dim() - 2
    if not is_float(x) or dims not in (1, 2):
        return None
    ic = x.shape[1]
    groups = rng.choice([n for n in (1, 1, 1, 2, ic) if ic % n == 0])
    oc = ic * rng.choice((1, 2)) if groups == ic and not transposed else groups * rng.choice(CHANNELS)
    kernel = [rng.choice((1, 1, 2, 3, 3, 5)) for _ in range(dims)]
    if rng.random() < 0.7:
        kernel = kernel[:1] * dims
    stride = rng.choice((1, 1, 2, 3))
    dilation = rng.choice((1, 1, 1, 2))
    padding = [rng.choice((0, dilation * (k - 1) // 2)) for k in kernel]
    outside = [rng.choice((0, 1)) for _ in range(2 * dims)] if rng.random() < 0.2 else []
    window = [dilation * (k - 1) + 1 for k in kernel]
    if any(n + 2 * p < w for n, p, w in zip(x.shape[2:], padding, window, strict=True)):
        return None
    bias, act = rng.random() < 0.7, activation(rng)
    normed, affine = rng.random() < 0.4, rng.random() < 0.15
    residual = rng.choice(("", "", "before", "after"))
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d) if transposed else (nn.Conv1d, nn.Conv2d)
    layer = kinds[dims - 1](ic, oc, kernel, stride, padding, groups=groups, bias=bias, dilation=dilation)
    norm = batch_norm((nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1], oc) if normed else nn.Identity()
    text = (
        f"[oc={oc},k={kernel},s={stride},p={padding},d={dilation},g={groups},bias={bias},norm={normed},act={act},"
        f"pad={outside},residual={residual},affine={affine}]"
    )
    return text, Block(layer, norm, act, outside, residual, affine)


@step()
def conv(rng: random.Random, x: Tensor) -> Made:
    return convolution(rng, x, transposed=False)


@step()
def conv_transpose(rng: random.Random, x: Tensor) -> Made:
    return convolution(rng, x, transposed=True)


@step()
def inverted_bottleneck(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() != 4:
        return None
    ic, act = x.shape[1], activation(rng)
    wide = 2 * ic
    layers = nn.Sequential(
        *(nn.Conv2d(ic, wide, 1, bias=False), batch_norm(nn.BatchNorm2d, wide), ACTIVATIONS[act]()),
        *(nn.Conv2d(wide, wide, 3, padding=1, groups=wide), batch_norm(nn.BatchNorm2d, wide), ACTIVATIONS[act]()),
        nn.Conv2d(wide, ic, 1),
    )
    return f"[{act}]", Residual(layers)


@step()
def squeeze_excite(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() != 4:
        return None
    ic = x.shape[1]
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(ic, 3, 1), nn.SiLU(), nn.Conv2d(3, ic, 1), nn.Sigmoid())
    return "", Gate(layers)


class Residual(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Gate(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x)


@step()
def linear(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() == 0:
        return None
    width = rng.choice((*CHANNELS, x.shape[-1], 33))
    bias, act, residual = rng.random() < 0.7, activation(rng), rng.choice(("", "", "before", "after"))
    layer = nn.Linear(x.shape[-1], width, bias=bias)
    text = f"[{width},bias={bias},act={act},residual={residual}]"
    return text, Block(layer, nn.Identity(), act, [], residual, rng.random() < 0.15)


@step()
def batch_norm_alone(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() not in (3, 4):
        return None
    return "", batch_norm((nn.BatchNorm1d, nn.BatchNorm2d)[x.dim() - 3], x.shape[1])


@step()
def layer_norm(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() == 0:
        return None
    shape = list(x.shape[-rng.randint(1, min(2, x.dim())) :])
    norm = nn.LayerNorm(shape, eps=1e-3, elementwise_affine=rng.random() < 0.7)
    if norm.weight is not None:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return str(shape), norm


@step()
def group_norm(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() not in (3, 4) or x[0, 0].numel() == 1:
        return None
    groups = rng.choice([n for n in range(1, x.shape[1] + 1) if x.shape[1] % n == 0])
    return f"[{groups}]", nn.GroupNorm(groups, x.shape[1], eps=1e-3)


@step()
def max_pool(rng: random.Random, x: Tensor) -> Made:
    return pool(rng, x, (nn.MaxPool1d, nn.MaxPool2d), True)


@step()
def avg_pool(rng: random.Random, x: Tensor) -> Made:
    return pool(rng, x, (nn.AvgPool1d, nn.AvgPool2d), False)


def pool(rng: random.Random, x: Tensor, kinds: tuple[type[nn.Module], type[nn.Module]], dilated: bool) -> Made:
    dims = x.dim() - 2
    if not is_float(x) or dims not in (1, 2):
        return None
    kernel, stride = rng.randint(1, 3), rng.randint(1, 3)
    padding, ceil = rng.randint(0, kernel // 2), rng.random() < 0.3
    option = {"dilation": rng.choice((1, 1, 2))} if dilated else {"count_include_pad": rng.random() < 0.5}
    window = option.get("dilation", 1) * (kernel - 1) + 1
    if min(x.shape[2:]) + 2 * padding < window:
        return None
    text = f"[k={kernel},s={stride},p={padding},ceil={ceil},{option}]"
    return text, kinds[dims - 1](kernel, stride, padding, ceil_mode=ceil, **option)


@step()
def adaptive_pool(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() != 4:
        return None
    size, largest = rng.choice((1, 1, 2, 3)), rng.random() < 0.3
    return f"[{size},max={largest}]", (nn.AdaptiveMaxPool2d if largest else nn.AdaptiveAvgPool2d)(size)


@step()
def upsample(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() not in (3, 4):
        return None
    mode = rng.choice(("nearest", "linear" if x.dim() == 3 else "bilinear"))
    corners = None if mode == "nearest" else rng.random() < 0.5
    factor = rng.choice((2, 1.5, 3))
    if min(x.shape[2:]) * factor < 1:
        return None
    return f"[{mode},{factor},{corners}]", nn.Upsample(scale_factor=factor, mode=mode, align_corners=corners)


@step()
def matmul_weight(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() == 0:
        return None
    weight = nn.Linear(rng.choice(CHANNELS), x.shape[-1], bias=False)
    return f"[{weight.in_features}]", MatmulWeight(weight)


class MatmulWeight(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.layer.weight


@step()
def gram(rng: random.Random, x: Tensor) -> Made:
    return ("", lambda x: x @ x.transpose(-1, -2) / x.shape[-1]) if is_float(x) and x.dim() >= 2 else None


@step(2)
def matmul(rng: random.Random, x: Tensor, y: Tensor) -> Made:
    if not is_float(x, y) or x.dim() == 0 or y.dim() == 0:
        return None
    inner = y.shape[-2] if y.dim() > 1 else y.shape[0]
    batches = all(m == n or 1 in (m, n) for m, n in zip(x.shape[-3::-1], y.shape[-3::-1], strict=False))
    return ("", torch.matmul) if x.shape[-1] == inner and batches else None


class Attention(nn.Module):
    """Self-attention over [batch, length, width], in PyTorch's op or written out."""

    def __init__(self, width: int, heads: int, causal: bool, written: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.causal, self.written = heads, causal, written

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.written:
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            if self.causal:
                scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), float("-inf"))
            y = scores.softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


@step()
def attention(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() != 3:
        return None
    heads = rng.choice([n for n in (1, 2, 4) if x.shape[-1] % n == 0])
    causal, written = rng.random() < 0.3, rng.random() < 0.5
    return f"[{heads},causal={causal},written={written}]", Attention(x.shape[-1], heads, causal, written)


@step(3)
def attention_of(rng: random.Random, q: Tensor, k: Tensor, v: Tensor) -> Made:
    if not is_float(q, k, v) or {q.dim(), k.dim(), v.dim()} != {4} or k.shape[:3] != v.shape[:3]:
        return None
    return ("", F.scaled_dot_product_attention) if q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3] else None


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


@step()
def recurrent(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() != 3 or x.numel() > 1000:
        return None
    kind, width = rng.choice((nn.GRU, nn.LSTM)), rng.choice((1, 5, 16))
    first, both = rng.random() < 0.5, rng.random() < 0.3
    layer = kind(x.shape[-1], width, batch_first=first, bidirectional=both)
    return f"[{kind.__name__},{width},batch_first={first},bidirectional={both}]", Recurrent(layer)
