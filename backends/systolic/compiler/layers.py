"""The kinds of layers that the array runs, each with its operands in DRAM and all its constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .views import Axis, Operand

Integers = NDArray[np.int64]
Weights = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Requantization:
    """From sums to bytes: constants for each output channel (or one for all), and what is the same for all.

    y = clip(zero + ((x + bias)*multiplier + (r - residual_zero)*residual_multiplier + (1 << (shift-1)) >> shift),
    low, high) for a residual r.
    """

    bias: Integers
    multiplier: Integers
    residual_multiplier: Integers
    shift: Integers
    zero: int
    low: int
    high: int
    residual_zero: int = 0


def identity_requantization() -> Requantization:
    """y = x for sums that fit in a byte."""
    zero, half = np.zeros(1, np.int64), np.full(1, 1 << 23, np.int64)
    return Requantization(zero, half, zero, np.full(1, 23, np.int64), 0, -128, 127)


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """What all layers have: the node they come from, operands whose axes are [..., rows, columns] of pixels.

    `output` has the axes of the layer's results; `source` the same outer axes and as many rows and columns as are read.
    `residual` is a second operand with the axes of `output`. `table` of 256 entries is looked up last.
    """

    name: str
    op: str
    where: str
    source: Operand
    output: Operand
    residual: Operand | None = None
    requantization: Requantization | None = None
    table: Weights | None = None

    @property
    def outer(self) -> tuple[int, ...]:
        """The counts of the axes outside of rows and columns."""
        return tuple(axis.count for axis in self.output.axes[:-2])

    @property
    def rows(self) -> int:
        """Rows of results."""
        return self.output.axes[-2].count

    @property
    def columns(self) -> int:
        """Columns of results."""
        return self.output.axes[-1].count

    @property
    def pixels(self) -> int:
        """Pixels of results."""
        return math.prod(axis.count for axis in self.output.axes)

    @property
    def macs(self) -> int:
        """Useful multiplications of the array: those of the op's definition, padding included."""
        return 0

    @property
    def gemm(self) -> tuple[int, int, int, int] | None:
        """How many products of matrices the layer amounts to, and their m, n and k; None when it has none."""
        return None

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What is read from DRAM."""
        return (self.source,) if self.residual is None else (self.source, self.residual)


@dataclass(frozen=True)
class Window:
    """What a layer reads of its source for a result: `padding` is (top, bottom, left, right), of value `fill`."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: int = 0

    @property
    def taps(self) -> int:
        """Elements of a window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def is_point(self) -> bool:
        """Whether result pixels are source pixels."""
        return self == Window(fill=self.fill)


def window_of(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], padding: Sequence[int], fill: int
) -> Window:
    """A window in one or two dimensions; `padding` holds (before, after) for each."""
    one = [1] * (2 - len(kernel))
    (ky, kx), (sy, sx), (dy, dx) = ((*one, *values) for values in (kernel, stride, dilation))
    top, bottom, left, right = (*[0] * (4 - len(padding)), *padding)
    return Window((ky, kx), (sy, sx), (dy, dx), (top, bottom, left, right), fill)


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Layer):
    """Sums over windows times constant weights [oc, ic / groups, ky, kx]; linear layers are convolutions of points.

    Without a requantisation the results are the sums, as int32: `output` then counts accumulator words.
    """

    weight: Weights
    groups: int = 1
    window: Window = Window()

    @property
    def macs(self) -> int:
        return self.pixels * int(self.weight.size)

    @property
    def gemm(self) -> tuple[int, int, int, int]:
        outputs = self.weight.shape[0]
        return self.groups, self.pixels, outputs // self.groups, int(self.weight.size) // outputs


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Layer):
    """source @ weights of two computed values; every outer axis has weights of its own.

    `weights` has the outer axes of the source and one axis more. With `transposed` that axis is n, and the words of a
    pixel are k; otherwise the axis is k, and the words of a pixel are n.
    """

    weights: Operand
    transposed: bool
    depth: int
    width: int

    @property
    def macs(self) -> int:
        return self.pixels * self.depth * self.width

    @property
    def gemm(self) -> tuple[int, int, int, int]:
        return math.prod(self.outer), self.rows * self.columns, self.width, self.depth

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.source, self.weights)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Layer):
    """The largest of a window, or its sum, requantised."""

    window: Window
    maximum: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Pointwise(Layer):
    """Requantisation, sum of two, or a table, one element at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Copy(Layer):
    """The same bytes in another place."""


def merged(*operands: Operand) -> tuple[Operand, ...]:
    """The operands with as few axes as serve them all (at least two: rows, columns), where pixels are independent."""
    kept: list[list[Axis]] = []  # for each axis kept, outermost first, that axis of each operand
    for axes in reversed(list(zip(*(operand.axes for operand in operands), strict=True))):
        if axes[0].count == 1:
            continue
        if kept and all(a.stride == inner.stride * inner.count for a, inner in zip(axes, kept[0], strict=True)):
            kept[0] = [Axis(a.count * inner.count, inner.stride) for a, inner in zip(axes, kept[0], strict=True)]
        else:
            kept.insert(0, list(axes))
    while len(kept) < 2:
        kept.insert(0, [Axis(1, 0)] * len(operands))
    return tuple(replace(operand, axes=tuple(axes[i] for axes in kept)) for i, operand in enumerate(operands))


def with_axes(operand: Operand, axes: Sequence[Axis]) -> Operand:
    """The operand with other axes."""
    return replace(operand, axes=tuple(axes))
