"""The quantised fxpress:: ops as formulas over Python's exact integers and NumPy's float32, channels first.

Accumulators are summed in int64 from the integers as they are, with padding that really has the value of the zero
point, and every rounding of a float is written out. test_quantized_ops.py holds the ops to these.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Term = tuple[Array, Array]  # integers, and their factors in float64, of shapes that broadcast
f32 = np.float32


def fixed_point(factor: float) -> tuple[int, int]:
    """The multiplier and right shift of a factor: the largest shift in 1..55 whose multiplier is below 2^24, else 1."""
    for shift in range(55, 0, -1):
        multiplier = round(Fraction(factor) * 2**shift)
        if multiplier < 2**24:
            return multiplier, shift
    return round(Fraction(factor) * 2), 1


def requantized(terms: Sequence[Term], zero: int, low: int, high: int, mode: str) -> Array:
    """clip(zero + round(sum of integers * factors), low, high), one element after the other."""
    flat = [each.ravel() for each in np.broadcast_arrays(*(part for term in terms for part in term))]
    rounded = {"F": in_floats, "I": in_fixed_point}[mode]
    columns = zip(*(each.tolist() for each in flat), strict=True)
    found = [min(max(zero + rounded(column[::2], column[1::2]), low), high) for column in columns]
    shape = np.broadcast_shapes(*(part.shape for term in terms for part in term))
    return np.array(found, np.int8).reshape(shape)


def in_floats(values: Sequence[int], factors: Sequence[float]) -> int:
    products = [f32(value) * f32(factor) for value, factor in zip(values, factors, strict=True)]
    return round(float(products[0] if len(products) == 1 else products[0] + products[1]))


def in_fixed_point(values: Sequence[int], factors: Sequence[float]) -> int:
    _, shift = fixed_point(max(factors))
    products = [value * round(Fraction(factor) * 2**shift) for value, factor in zip(values, factors, strict=True)]
    return (sum(products) + 2 ** (shift - 1)) // 2**shift


def along_channels(values: Tensor, rank: int) -> Array:
    return values.numpy().astype(np.float64).reshape(-1, *[1] * (rank - 2))


def windows(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    outputs: Sequence[int] | None = None,
) -> Array:
    """[*kernel, batch, channels, *outputs]: what each element of the kernel sees."""
    reach = [gap * (k - 1) + 1 for k, gap in zip(kernel, dilation, strict=True)]
    if outputs is None:
        outputs = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride, strict=True)]
    seen = np.empty((*kernel, *x.shape[:2], *outputs), x.dtype)
    for place in itertools.product(*map(range, kernel)):
        taken = (
            slice(p * g, p * g + (o - 1) * s + 1, s)
            for p, g, o, s in zip(place, dilation, outputs, stride, strict=True)
        )
        seen[place] = x[(..., *taken)]
    return seen


def surrounded(x: Array, padding: Sequence[int], value: int) -> Array:
    pairs = list(zip(padding[::2], padding[1::2], strict=True))
    return np.pad(x, [(0, 0), (0, 0), *pairs], constant_values=value)


def conv_sums(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_zero: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    filters = weight.numpy().astype(np.int64)
    seen = windows(surrounded(x.numpy().astype(np.int64), padding, x_zero), weight.shape[2:], stride, dilation)
    dims = weight.dim() - 2
    width, depth = weight.shape[0] // groups, weight.shape[1]
    sums = []
    for channel in range(weight.shape[0]):
        start = channel // width * depth
        taken = seen[(*[slice(None)] * dims, slice(None), slice(start, start + depth))]
        sums.append(np.einsum(taken, [*range(dims), 8, 9, ...], filters[channel], [9, *range(dims)], [8, ...]))
    return np.stack(sums, 1) + bias.numpy().astype(np.int64).reshape(-1, *[1] * dims)


def conv(
    x, weight, bias, residual, weight_scale, x_scale, x_zero, residual_scale, residual_zero, y_scale, y_zero, low, high,
    stride, padding, dilation, groups, mode,
):  # fmt: skip
    sums = conv_sums(x, weight, bias, x_zero, stride, padding, dilation, groups)
    terms = [(sums, along_channels(weight_scale, x.dim()) * x_scale / y_scale)]
    return requantized([*terms, *added(residual, residual_scale, residual_zero, y_scale)], y_zero, low, high, mode)


def sums_of_conv(x, weight, x_zero, stride, padding, dilation, groups):
    none = Tensor([0] * weight.shape[0]).int()
    return conv_sums(x, weight, none, x_zero, stride, padding, dilation, groups).astype(np.int32)


def sums_of_linear(x, weight):
    return (x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T).astype(np.int32)


def sums_of_matmul(a, b, a_zero, b_zero):
    return ((a.numpy().astype(np.int64) - a_zero) @ (b.numpy().astype(np.int64) - b_zero)).astype(np.int32)


def added(residual: Tensor | None, scale: float, zero: int, y_scale: float) -> list[Term]:
    return [] if residual is None else [(residual.numpy().astype(np.int64) - zero, np.float64(scale / y_scale))]


def to_float(sums: Array, factors: Array, residual: Tensor | None, activation: str) -> Array:
    y = sums.astype(f32) * factors.astype(f32)
    y = y if residual is None else y + residual.numpy()
    return {"none": y, "relu": np.maximum(y, f32(0)), "clamp(-1.0,2.0)": np.clip(y, f32(-1), f32(2))}[activation]


def conv_float(
    x, weight, bias, residual, weight_scale, x_scale, x_zero, stride, padding, dilation, groups, activation
):  # fmt: skip
    sums = conv_sums(x, weight, bias, x_zero, stride, padding, dilation, groups)
    return to_float(sums, along_channels(weight_scale, x.dim()) * x_scale, residual, activation)


def linear_sums(x: Tensor, weight: Tensor, bias: Tensor) -> Array:
    return x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T + bias.numpy().astype(np.int64)


def linear(
    x, weight, bias, residual, weight_scale, x_scale, x_zero, residual_scale, residual_zero, y_scale, y_zero, low, high,
    mode,
):  # fmt: skip
    terms = [(linear_sums(x, weight, bias), weight_scale.numpy().astype(np.float64) * x_scale / y_scale)]
    return requantized([*terms, *added(residual, residual_scale, residual_zero, y_scale)], y_zero, low, high, mode)


def linear_float(x, weight, bias, residual, weight_scale, x_scale, x_zero, activation):
    factors = weight_scale.numpy().astype(np.float64) * x_scale
    return to_float(linear_sums(x, weight, bias), factors, residual, activation)


def product_sums(a: Tensor, b: Tensor, a_zero: int, b_zero: int) -> Array:
    return (a.numpy().astype(np.int64) - a_zero) @ (b.numpy().astype(np.int64) - b_zero)


def matmul(a, b, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, low, high, mode):
    factor = np.float64(a_scale * b_scale / y_scale)
    return requantized([(product_sums(a, b, a_zero, b_zero), factor)], y_zero, low, high, mode)


def matmul_float(a, b, a_scale, a_zero, b_scale, b_zero):
    return product_sums(a, b, a_zero, b_zero).astype(f32) * f32(a_scale * b_scale)


def attention(q, k, v, mask, causal, scale, gqa, q_scale, k_scale, k_zero, v_scale, v_zero, y_scale, y_zero):
    """Row by row in Python: integer weights out of 255, the row's largest score being 255."""
    q, k, v = (x.numpy().astype(np.int64) for x in (q, k, v))
    hidden = None if mask is None else np.broadcast_to(mask.numpy(), (*q.shape[:-1], k.shape[-2]))
    y = np.full((*q.shape[:-1], v.shape[-1]), y_zero, np.int8)
    for *batch, head, row in np.ndindex(*q.shape[:-1]):
        shared = (*batch, head // (q.shape[-3] // k.shape[-3]) if gqa else head)
        scores = (q[(*batch, head, row)] @ (k[shared] - k_zero).T).astype(f32) * f32(q_scale * k_scale * scale)
        if hidden is not None:
            here = hidden[(*batch, head, row)]
            scores = np.where(here, scores, -np.inf) if here.dtype == bool else scores + here
        seen = scores[: row + 1] if causal else scores
        if not np.isfinite(seen).any():
            continue
        weights = np.rint(np.exp(seen - seen.max()) * f32(255)).astype(np.int64)
        sums = (weights @ (v[shared][: len(seen)] - v_zero)).astype(f32)
        y[(*batch, head, row)] = np.clip(
            np.rint(sums * (f32(v_scale / y_scale) / f32(weights.sum()))) + y_zero, -128, 127
        )
    return y


def add(a, b, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, low, high, mode):
    terms = [*added(a, a_scale, a_zero, y_scale), *added(b, b_scale, b_zero, y_scale)]
    return requantized(terms, y_zero, low, high, mode)


def requantize(x, x_scale, x_zero, y_scale, y_zero, low, high, mode):
    return requantized(added(x, x_scale, x_zero, y_scale), y_zero, low, high, mode)


def quantize(x, scale, zero_point):
    inverse = f32(1 / scale)
    found = []
    with np.errstate(over="ignore"):
        products = x.numpy().astype(f32).ravel() * inverse
    for scaled in products.tolist():
        ends = {math.inf: 127, -math.inf: -128}
        found.append(
            -128 if math.isnan(scaled) else ends.get(scaled) or min(max(round(scaled) + zero_point, -128), 127)
        )
    return np.array(found, np.int8).reshape(x.shape)


def dequantize(x, scale, zero_point):
    return f32(x.numpy().astype(np.int64) - zero_point) * f32(scale)


def lookup(x, table):
    entries = table.tolist()
    return np.array([entries[value + 128] for value in x.flatten().tolist()], np.int8).reshape(x.shape)


def pool_outputs(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], ceil_mode: bool,
) -> list[int]:  # fmt: skip
    """Every window that starts inside the value or before it, and that ends inside the padding unless `ceil_mode`."""
    counts = []
    for n, k, s, p, gap in zip(sizes, kernel, stride, padding, dilation, strict=True):
        starts = range(-p, n, s)
        counts.append(sum(ceil_mode or start + gap * (k - 1) < n + p for start in starts))
        if ceil_mode:  # the first window always exists, each later one where the one before did not reach the end
            counts[-1] = 1 + sum(start - s + gap * (k - 1) < n + p - 1 for start in starts[1:])
    return counts


def pool_windows(x: Tensor, kernel, stride, padding, dilation, ceil_mode: bool, value: int) -> Array:
    outputs = pool_outputs(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    ends = [
        max(0, (o - 1) * s + gap * (k - 1) + 1 - p - n)
        for o, s, k, p, gap, n in zip(outputs, stride, kernel, padding, dilation, x.shape[2:], strict=True)
    ]
    pads = [each for pair in zip(padding, ends, strict=True) for each in pair]
    seen = windows(surrounded(x.numpy().astype(np.int64), pads, value), kernel, stride, dilation, outputs)
    return seen.reshape(-1, *seen.shape[len(kernel) :])


def avg_pool(x, kernel, stride, padding, ceil_mode, x_scale, x_zero, y_scale, y_zero, low, high, mode):
    seen = pool_windows(x, kernel, stride, padding, [1] * len(kernel), ceil_mode, x_zero)
    factor = np.float64(x_scale / (y_scale * math.prod(kernel)))
    return requantized([((seen - x_zero).sum(0), factor)], y_zero, low, high, mode)


def max_pool(x, kernel, stride, padding, dilation, ceil_mode):
    return pool_windows(x, kernel, stride, padding, dilation, ceil_mode, -128).max(0).astype(np.int8)


def embedding(weight, scale, indices):
    rows = [[f32(value) * f32(scale[i].item()) for value in weight[i].tolist()] for i in indices.flatten().tolist()]
    return np.array(rows, f32).reshape(*indices.shape, weight.shape[1])


def dynamic_linear(x, weight, bias, residual, weight_scale, activation):
    rows = x.numpy().reshape(-1, x.shape[-1])
    filters, scales = weight.numpy().astype(np.int64), weight_scale.numpy()
    found = []
    for row in rows:
        largest = np.abs(row).max()
        tiny = largest < 127 / np.finfo(f32).max
        scale, inverse = (f32(1), f32(1)) if tiny else (largest / f32(127), f32(127) / largest)
        integers = np.array([round(float(value * inverse)) for value in row], np.int64)
        y = (filters @ integers).astype(f32) * (scale * scales)
        found.append(y if bias is None else y + bias.numpy())
    y = np.stack(found).reshape(*x.shape[:-1], -1)
    return to_float(y, f32(1), residual, activation)


def weight_only_linear(x, weight, bias, residual, weight_scale, weight_zero, bits, group, activation):
    w = np.empty((weight.shape[0], x.shape[-1]))
    for n, k in np.ndindex(w.shape):
        stored = int(weight[n, k]) if bits == 8 else int(weight[n, k // 2]) >> 4 * (k % 2) & 15
        zero = {8: 0, 4: 8}[bits] if weight_zero is None else int(weight_zero[n, k // group])
        w[n, k] = f32(stored - zero) * f32(weight_scale[n, k // group].item())
    y = np.einsum("...k,nk->...n", x.numpy(), w)
    y = y if bias is None else y + bias.numpy()
    y = y if residual is None else y + residual.numpy()
    return np.maximum(y, 0) if activation == "relu" else y


def codebook(indices, values):
    entries = values.numpy()
    return np.array([entries[i] for i in indices.flatten().tolist()], f32).reshape(indices.shape)


QUANTIZED_FORMULAS = {
    "quantize": quantize, "dequantize": dequantize, "requantize": requantize, "lookup": lookup, "quantized_conv": conv,
    "quantized_conv_float": conv_float, "quantized_linear": linear, "quantized_linear_float": linear_float,
    "quantized_matmul": matmul, "quantized_matmul_float": matmul_float, "quantized_add": add,
    "quantized_avg_pool": avg_pool, "quantized_max_pool": max_pool, "quantized_embedding": embedding,
    "quantized_attention": attention,
    "dynamic_linear": dynamic_linear, "weight_only_linear": weight_only_linear, "codebook": codebook,
    "conv_sums": sums_of_conv, "linear_sums": sums_of_linear, "matmul_sums": sums_of_matmul,
}  # fmt: skip
