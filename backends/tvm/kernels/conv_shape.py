"""What every convolution kernel has in common: the arithmetic, where its views lie, and the epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm.tirx.script import builder as B

from .base import Access, Expr, Kernel, Operand, broadcast
from .linear_shape import LinearShape, Rows
from .vmath import activate, from_float32, to_float32

Strides = tuple[int, int, int]

LINE = 16  # floats of a cache line


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """A float32, channels-last convolution: y = activation(conv(x, weight) + bias + residual).

    `height` and `width` are those of the output; a 1-D convolution has height 1 and kernel (1, k). `padding` is
    (top, left). `x_strides`, `y_strides` and `residual_strides` are those of (n, h, w), in elements; channels lie next
    to each other. Operand x points at its interior element (0, 0, 0, 0), and everything a tap may touch around it is
    readable and zero, so kernels have no boundary code. Without `residual_strides` there is no residual operand.
    """

    batch: int
    height: int
    width: int
    ic: int
    oc: int
    kernel: tuple[int, int]
    x_strides: Strides
    y_strides: Strides
    residual_strides: Strides | None = None
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    activation: str = "none"

    def __post_init__(self) -> None:
        if self.ic % self.groups or self.oc % self.groups:
            raise ValueError(f"groups must divide ic={self.ic} and oc={self.oc}, not {self.groups}")

    @property
    def pixels(self) -> int:
        """Output pixels, the batch included."""
        return self.batch * self.height * self.width

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return self.kernel[0] * self.kernel[1]

    @property
    def depth(self) -> int:
        """Products summed for one element of the result."""
        return self.taps * (self.ic // self.groups)

    @property
    def flops(self) -> int:
        """Multiply-adds of the convolution alone, each counted as two."""
        return 2 * self.pixels * self.oc * self.depth

    def flattened(self) -> ConvShape:
        """The same computation with as many of (n, h, w) merged into the width as the strides allow.

        Only a 1x1 kernel is flattened: its pixels need no neighbours.
        """
        if self.kernel != (1, 1):
            return self
        (top, left), (x_n, x_h, x_w) = self.padding, self.x_strides
        if top or left:
            return self
        steps = [(x_n, x_h * self.stride[0], x_w * self.stride[1]), self.y_strides]
        if self.residual_strides is not None:
            steps.append(self.residual_strides)
        batch, height, width = self.batch, self.height, self.width
        if height > 1 and all(h == width * w for _, h, w in steps):
            height, width = 1, height * width
        if height == 1 and batch > 1 and all(n == width * w for n, _, w in steps):
            batch, width = 1, batch * width
        if (batch, height) == (self.batch, self.height):
            return self
        first, *others = [
            (0 if batch == 1 else n, 0 if height == 1 else h, w) for n, h, w in (self.x_strides, *(steps[1:]))
        ]
        return replace(
            self,
            batch=batch,
            height=height,
            width=width,
            x_strides=first,
            y_strides=others[0],
            residual_strides=others[1] if len(others) > 1 else None,
            stride=(1 if height == 1 else self.stride[0], self.stride[1]),
        )

    def pixel(self, n: Expr, h: Expr, w: Expr) -> tuple[Expr, Expr, Expr]:
        """Element offsets of output pixel (n, h, w): of its first tap in x, in y, in the residual (0 without one)."""
        x_n, x_h, x_w = self.x_strides
        first = n * x_n + (h * self.stride[0] - self.padding[0]) * x_h + (w * self.stride[1] - self.padding[1]) * x_w
        return first, _dot(self.y_strides, n, h, w), _dot(self.residual_strides or (0, 0, 0), n, h, w)

    def text(self) -> str:
        """The shape in a few words, for reports."""
        parts = [
            f"{self.batch}x{self.height}x{self.width}",
            f"{self.ic}->{self.oc}",
            "k" + "x".join(map(str, self.kernel)),
        ]
        if self.stride != (1, 1):
            parts.append("s" + "x".join(map(str, self.stride)))
        if self.dilation != (1, 1):
            parts.append("d" + "x".join(map(str, self.dilation)))
        if self.groups > 1:
            parts.append(f"groups={self.groups}")
        return " ".join(parts)


def rows_as_pixels(layer: LinearShape, x: Rows) -> ConvShape:
    """A linear layer as a 1x1 convolution of its rows, where those of x lie as `x` says."""
    residual = layer.residual
    return ConvShape(
        batch=layer.outer,
        height=1,
        width=layer.inner,
        ic=layer.k,
        oc=layer.n,
        kernel=(1, 1),
        x_strides=(x.outer, 0, x.inner),
        y_strides=(layer.y.outer, 0, layer.y.inner),
        residual_strides=None if residual is None else (residual.outer, 0, residual.inner),
        activation=layer.activation,
    )


def _dot(strides: Strides, n: Expr, h: Expr, w: Expr) -> Expr:
    return n * strides[0] + h * strides[1] + w * strides[2]


class Epilogue:
    """Adds the residual, applies the activation and stores: the last step of every convolution kernel."""

    def __init__(self, shape: ConvShape, residual: Access | None, y: Access) -> None:
        self._activation = activation(shape.activation)
        self.residual = residual
        self._y = y

    def __call__(self, value: Expr, y_at: Expr, residual_at: Expr, lanes: int, count: int) -> None:
        """Finish `value` (convolution plus bias) and store its first `count` lanes at `y_at`."""
        if self.residual is not None:
            value = value + to_float32(load_first(self.residual, residual_at, lanes, count))
        result = from_float32(self._activation(value, lanes), self._y.dtype)
        self._y.store(y_at, result, lanes, count=None if count == lanes else count)


@dataclass(frozen=True)
class Prefetch:
    """`count` cache lines to ask for, number i by `line(i)`, a few in each round of a reduction."""

    count: int
    line: Callable[[Expr], None]

    def emit(self, number: Expr, rounds: int) -> None:
        """Ask for the lines that fall to round `number` of `rounds`."""
        several = -(-self.count // rounds)
        asking = -(-self.count // several)

        def ask() -> None:
            for i in range(several):
                self.line(number * several + i)

        if asking == rounds:
            ask()
            return
        with B.If(number < asking), B.Then():
            ask()


def activation(name: str) -> Callable[[Expr, int], Expr]:
    """The function (value, lanes) -> value that emits the activation called `name`."""
    if name == "none":
        return lambda value, lanes: value
    return lambda value, lanes: activate(name, B.bind(value), lanes)


def bounded_lanes(channels: int, lanes: int) -> int:
    """The narrowest vector that holds `channels`, a power of two, or `lanes` where they are more."""
    return min(lanes, 1 << math.ceil(math.log2(channels)))


def load_first(x: Access, index: Expr, lanes: int, count: int) -> Expr:
    """A vector of `lanes` elements of which only the first `count` are read."""
    return x.load(index, lanes, count=None if count == lanes else count)


def zeros(lanes: int) -> Expr:
    """A float32 vector of zeros."""
    return broadcast(B.float32(0), lanes)


@dataclass(frozen=True)
class ConvKernel(Kernel):
    """A kernel that computes a ConvShape; its weight operand is what its `pack` returns, or is made from that."""

    shape: ConvShape

    def operands(self) -> tuple[Operand, ...]:
        """x, weight, bias [oc], residual where there is one, y."""
        names = ["x", "weight", "bias"] + ["residual"] * (self.shape.residual_strides is not None)
        return (*(Operand(name, "float32") for name in names), Operand("y", "float32", write=True))

    def flops(self) -> int:
        """Multiply-adds of a direct convolution, each counted as two, so that speeds compare; no epilogue."""
        return self.shape.flops
