"""The kinds of steps of random models: for each name how many values it reads and a function that makes one.

A maker gets a `random.Random` and the values, and returns what to print behind the name and what computes the step,
or None when it does not fit these values.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = tuple[str, Callable[..., Tensor]] | None
Maker = Callable[..., Made]
STEPS: dict[str, tuple[int, Maker]] = {}


def step(operands: int = 1) -> Callable[[Maker], Maker]:
    """Register a maker under its function's name."""

    def register(make: Maker) -> Maker:
        STEPS[make.__name__] = operands, make
        return make

    return register


def is_float(*values: Tensor) -> bool:
    return all(x.dtype == torch.float32 for x in values)


def pointwise(name: str, function: Callable[[Tensor], Tensor]) -> None:
    STEPS[name] = 1, lambda rng, x: ("", function) if is_float(x) else None


for _name, _function in {
    "relu": torch.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_written": lambda x: 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "gelu_tanh_written": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3))),
    "silu": F.silu,
    "silu_written": lambda x: x * torch.sigmoid(x),
    "sigmoid": torch.sigmoid,
    "sigmoid_written": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardswish_written": lambda x: x * F.relu6(x + 3) / 6,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": lambda x: torch.exp(x.clamp(-5, 5)),
    "log1p": lambda x: torch.log1p(x.abs()),
    "sqrt": lambda x: torch.sqrt(x.abs() + 0.1),
    "rsqrt": lambda x: torch.rsqrt(x * x + 0.5),
    "reciprocal": lambda x: 1 / (x.abs() + 1),
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "abs": torch.abs,
    "neg": torch.neg,
    "neg_twice": lambda x: torch.neg(torch.neg(x)),
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "clamp": lambda x: x.clamp(-0.9, 1.1),
    "clamp_min": lambda x: x.clamp(min=-0.2),
    "identity": lambda x: (x * 1 + 0).clone(),
    "round_trip": lambda x: x.double().float(),
    "clip_where": lambda x: torch.where(x > 0.3137, x, 0.25 * x),
    "masked": lambda x: x.masked_fill(x > 0.7313, 0.5),
    "softmax_written": lambda x: (lambda e: e / e.sum(-1, keepdim=True))(torch.exp(x - x.amax(-1, keepdim=True))),
    "layer_norm_written": lambda x: (
        (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-3)
    ),
    "rms_norm_written": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3),
    "flip_all": lambda x: x.flip(tuple(range(x.dim()))),
    "sum_all": lambda x: x.sum(),
    "contiguous": lambda x: x.transpose(0, -1).contiguous(),
}.items():
    pointwise(_name, _function)


@step()
def scale(rng: random.Random, x: Tensor) -> Made:
    factor = rng.choice((0.5, 2.0, -1.0, 1.7, 3))
    return (f"[{factor}]", lambda x: x * factor) if x.dtype != torch.bool else None


@step()
def shift(rng: random.Random, x: Tensor) -> Made:
    number = rng.choice((1, 0.25, -1.3))
    reverse = rng.random() < 0.5
    return (f"[{number},{reverse}]", lambda x: number - x if reverse else x + number) if is_float(x) else None


@step()
def divide(rng: random.Random, x: Tensor) -> Made:
    divisor = rng.choice((8, 3.0, math.sqrt(7)))
    return (f"[{divisor:.3g}]", lambda x: x / divisor) if x.dtype != torch.bool else None


def binary(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def values(rng: random.Random, x: Tensor, y: Tensor) -> Made:
        return ("", function) if is_float(x, y) and broadcasts(x, y) else None

    def constant(rng: random.Random, x: Tensor) -> Made:
        if not is_float(x):
            return None
        dims = rng.randint(0, x.dim())
        shape = [size if rng.random() < 0.6 else 1 for size in x.shape[x.dim() - dims :]]
        left = rng.random() < 0.3
        return f"{shape}{'l' if left else ''}", WithConstant(function, torch.randn(shape), left)

    STEPS[name] = 2, values
    STEPS[f"{name}_constant"] = 1, constant


class WithConstant(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], constant: Tensor, left: bool) -> None:
        super().__init__()
        self.function, self.left = function, left
        self.weight = nn.Parameter(constant)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.weight, x) if self.left else self.function(x, self.weight)


def broadcasts(x: Tensor, y: Tensor) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(x.shape), reversed(y.shape), strict=False))


for _name, _binary in {
    "add": torch.add,
    "add_scaled": lambda x, y: torch.add(x, y, alpha=2),
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda x, y: x / (y.abs() + 1),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda x, y: torch.where(x > 0.5137, x, y),
    "gated": lambda x, y: x * torch.sigmoid(y),
}.items():
    binary(_name, _binary)


# ----------------------------------------------------------------- views and data movement
@step()
def permute(rng: random.Random, x: Tensor) -> Made:
    dims = rng.sample(range(x.dim()), x.dim())
    return str(dims), lambda x: x.permute(dims)


@step()
def reshape(rng: random.Random, x: Tensor) -> Made:
    left, shape = x.numel(), list[int]()
    for _ in range(rng.randint(0, 3)):
        size = rng.choice([n for n in range(1, left + 1) if left % n == 0])
        shape.append(size)
        left //= size
    shape.append(left)
    rng.shuffle(shape)
    return str(shape), lambda x: x.reshape(shape)


@step()
def flatten(rng: random.Random, x: Tensor) -> Made:
    start = rng.randrange(max(x.dim(), 1))
    return f"[{start}]", lambda x: x.flatten(start)


@step()
def heads(rng: random.Random, x: Tensor) -> Made:
    """Split the last dimension and bring one part forward, as attention does."""
    if x.dim() != 3:
        return None
    count = rng.choice([n for n in (1, 2, 4) if x.shape[-1] % n == 0])
    return f"[{count}]", lambda x: x.unflatten(-1, (count, -1)).transpose(1, 2)


@step()
def unsqueeze(rng: random.Random, x: Tensor) -> Made:
    dim = rng.randint(0, x.dim())
    return f"[{dim}]", lambda x: x.unsqueeze(dim)


@step()
def squeeze(rng: random.Random, x: Tensor) -> Made:
    return "", lambda x: x.squeeze()


@step()
def cut(rng: random.Random, x: Tensor) -> Made:
    if x.dim() == 0:
        return None
    dim = rng.randrange(x.dim())
    start = rng.randrange(x.shape[dim])
    stop, hop = rng.randint(start + 1, x.shape[dim]), rng.choice((1, 1, 2, 3))
    index = (*[slice(None)] * dim, slice(start, stop, hop))
    return f"[{dim},{start}:{stop}:{hop}]", lambda x: x[index]


@step()
def select(rng: random.Random, x: Tensor) -> Made:
    if x.dim() == 0:
        return None
    dim = rng.randrange(x.dim())
    index = rng.randrange(-x.shape[dim], x.shape[dim])
    return f"[{dim},{index}]", lambda x: x.select(dim, index)


@step()
def pad(rng: random.Random, x: Tensor) -> Made:
    if x.dim() == 0:
        return None
    widths = [rng.choice((0, 1, 2, -1)) for _ in range(2 * rng.randint(1, min(2, x.dim())))]
    sizes = [x.shape[-1 - i] + widths[2 * i] + widths[2 * i + 1] for i in range(len(widths) // 2)]
    value = rng.choice((0.0, 0.0, 1.5))
    return (f"{widths}={value}", lambda x: F.pad(x, widths, value=value)) if is_float(x) and min(sizes) > 0 else None


@step()
def reflect(rng: random.Random, x: Tensor) -> Made:
    if not is_float(x) or x.dim() not in (3, 4) or min(x.shape[2:]) < 3:
        return None
    widths = [rng.randint(0, 2) for _ in range(2 * (x.dim() - 2))]
    mode = rng.choice(("reflect", "replicate"))
    return f"{widths}{mode}", lambda x: F.pad(x, widths, mode=mode)


@step(2)
def cat(rng: random.Random, x: Tensor, y: Tensor) -> Made:
    if x.dim() != y.dim() or x.dim() == 0 or x.dtype != y.dtype:
        return None
    different = [i for i in range(x.dim()) if x.shape[i] != y.shape[i]]
    if len(different) > 1:
        return None
    dim = different[0] if different else rng.randrange(x.dim())
    return f"[{dim}]", lambda x, y: torch.cat([x, y], dim)


@step()
def cat_parts(rng: random.Random, x: Tensor) -> Made:
    if x.dim() == 0:
        return None
    dim = rng.randrange(x.dim())
    size = rng.randint(1, x.shape[dim])
    return f"[{dim},{size}]", lambda x: torch.cat(x.split(size, dim)[::-1], dim)


@step(2)
def stack(rng: random.Random, x: Tensor, y: Tensor) -> Made:
    dim = rng.randint(0, x.dim())
    return (f"[{dim}]", lambda x, y: torch.stack([x, y], dim)) if x.shape == y.shape and x.dtype == y.dtype else None


@step()
def expand(rng: random.Random, x: Tensor) -> Made:
    shape = [3 if size == 1 else size for size in x.shape]
    return str(shape), lambda x: x.expand(2, *shape)


@step()
def repeat(rng: random.Random, x: Tensor) -> Made:
    counts = [rng.choice((1, 1, 2)) for _ in range(x.dim())]
    return str(counts), lambda x: x.repeat(counts)


@step()
def roll(rng: random.Random, x: Tensor) -> Made:
    if x.dim() == 0:
        return None
    dim, by = rng.randrange(x.dim()), rng.randint(-3, 3)
    return f"[{dim},{by}]", lambda x: x.roll(by, dim)


@step()
def pixel_shuffle(rng: random.Random, x: Tensor) -> Made:
    return ("", lambda x: F.pixel_shuffle(x, 2)) if x.dim() == 4 and x.shape[1] % 4 == 0 else None


@step()
def index(rng: random.Random, x: Tensor) -> Made:
    if x.dim() == 0:
        return None
    dim = rng.randrange(x.dim())
    where = torch.tensor([rng.randrange(x.shape[dim]) for _ in range(rng.randint(1, 5))])
    return f"[{dim},{where.tolist()}]", lambda x: x.index_select(dim, where)


# ----------------------------------------------------------------- reductions
def reduction(name: str, function: Callable[..., Tensor]) -> None:
    def make(rng: random.Random, x: Tensor) -> Made:
        if not is_float(x) or x.dim() == 0:
            return None
        dims = sorted(rng.sample(range(x.dim()), rng.randint(1, x.dim())))
        keep = rng.random() < 0.5
        return f"{dims}{'k' if keep else ''}", lambda x: function(x, dims, keepdim=keep)

    STEPS[name] = 1, make


reduction("sum", torch.sum)
reduction("mean", torch.mean)
reduction("amax", torch.amax)
reduction("amin", torch.amin)
reduction("logsumexp", torch.logsumexp)
reduction("norm", lambda x, dims, keepdim: torch.linalg.vector_norm(x, 2, dims, keepdim))
reduction("var", lambda x, dims, keepdim: torch.var(x, dims, correction=0, keepdim=keepdim))


def along(name: str, function: Callable[[Tensor, int], Tensor], only_float: bool = True) -> None:
    def make(rng: random.Random, x: Tensor) -> Made:
        if x.dim() == 0 or (only_float and not is_float(x)) or x.dtype == torch.bool:
            return None
        dim = rng.randrange(-x.dim(), x.dim())
        return f"[{dim}]", lambda x: function(x, dim)

    STEPS[name] = 1, make


along("softmax", torch.softmax)
along("log_softmax", torch.log_softmax)
along("max_values", lambda x, dim: x.max(dim).values)
along("argmax", torch.argmax)
along("cumsum", torch.cumsum)
along("any", lambda x, dim: (x > 0.4137).any(dim))


# ----------------------------------------------------------------- integers and masks
@step()
def greater(rng: random.Random, x: Tensor) -> Made:
    return ("", lambda x: x > 0.6137) if x.dtype != torch.bool else None


@step()
def to_float(rng: random.Random, x: Tensor) -> Made:
    return ("", lambda x: x.float() * 0.5) if not x.is_floating_point() else None


@step()
def embedding(rng: random.Random, x: Tensor) -> Made:
    if x.dtype != torch.int64 or not 0 <= int(x.min()) or int(x.max()) >= 50:
        return None
    width = rng.choice((1, 5, 8, 17))
    return f"[{width}]", nn.Embedding(50, width)


@step(2)
def choose(rng: random.Random, mask: Tensor, x: Tensor) -> Made:
    if mask.dtype != torch.bool or not is_float(x) or not broadcasts(mask, x):
        return None
    return "", lambda mask, x: torch.where(mask, x, -x)
