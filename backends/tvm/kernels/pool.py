"""Max and average pooling over any number of spatial dimensions, sliding or adaptive."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from . import vmath
from .base import Access, Expr, Kernel, Operand, Registers, broadcast
from .loops import LAUNCH_COST, Axis, vectors
from .quantized_ops import requantize
from .sums import CHUNK
from .vmath import constant, hold

_UNROLLED_TAPS = 16  # windows up to this size are unrolled where they lie inside the image


@dataclass(frozen=True)
class Window:
    """How one spatial dimension is pooled; `padding` is what lies before, and after unless ceil_mode adds
    more."""

    kernel: int
    stride: int
    padding: int = 0
    dilation: int = 1


@dataclass(frozen=True)
class Average:
    """How averages of 8-bit integers are requantised: the sum of x - `offset`, times `factor`, plus `zero`."""

    offset: int
    factor: float
    zero: int
    low: int
    high: int
    mode: str


@dataclass(frozen=True)
class Pool(Kernel):
    """Pool a view in the order [batch, channels, spatial...], whatever its strides; vectors run over channels.

    `dtype` is "float32", or "uint8" for biased 8-bit integers, averages of which are made as `average` says.

    `op` is "max" or "avg". `windows` has one entry a spatial dimension, or is empty for adaptive pooling.
    The size of
    the output says whether ceil_mode was on. For averages `count_include_pad` and `divisor` (0: none) are
    PyTorch's. NaN wins a maximum. Use `pool_kernel` to make one for a target.
    """

    name: ClassVar[str] = "pool"
    op: str
    shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    windows: tuple[Window, ...]
    strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    count_include_pad: bool
    divisor: int
    lanes: int
    threads: int
    dtype: str = "float32"
    average: Average | None = None

    def __post_init__(self) -> None:
        if self.op not in ("max", "avg"):
            raise InvalidInput(f"pooling must be one of ['avg', 'max'], not {self.op!r}")
        if self.windows and len(self.windows) != len(self.shape) - 2:
            raise InvalidInput(f"pooling windows must be {len(self.shape) - 2} many, not {len(self.windows)}")

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", self.dtype), Operand("y", self.dtype, write=True)

    def flops(self) -> int:
        if self.windows:
            return math.prod(self.out_shape) * math.prod(w.kernel for w in self.windows)
        return math.prod(self.shape)

    def describe(self) -> str:
        size = "x".join(str(w.kernel) for w in self.windows) or "adaptive"
        return f"{self.op}-pool {size} {'x'.join(map(str, self.shape))} -> {'x'.join(map(str, self.out_shape))}"

    def emit(self, x: Access, y: Access) -> None:
        if 0 in self.out_shape:
            B.evaluate(B.int32(0))
            return
        channels = Axis(self.shape[1], (self.out_strides[1], self.strides[1]))
        outer = [Axis(self.shape[0], (self.out_strides[0], self.strides[0]))]
        outer += [Axis(n, (s, 0)) for n, s in zip(self.out_shape[2:], self.out_strides[2:], strict=True)]
        threads = self.threads if self.flops() >= LAUNCH_COST else 1
        with vectors(channels, outer, self.lanes, threads) as (lanes, offsets, where):
            y_at, x_at = offsets
            result = self._emit_window(x, x_at, where[1:], lanes)
            y.store(y_at, result, lanes, self.out_strides[1])

    def _emit_window(self, x: Access, x_at: Expr, where: Sequence[Expr], lanes: int) -> Expr:
        ranges = [self._range(d, index) for d, index in enumerate(where)]
        element = "int32" if self.average else self.dtype
        accumulator, grand = Registers(1, lanes, element), Registers(1, lanes, element)
        start = constant(-math.inf if self.op == "max" and self.dtype == "float32" else 0, element, lanes)

        def join(held: Expr, value: Expr) -> Expr:
            if self.op == "avg":
                return held + value
            return vmath.maximum(hold(value), held) if self.dtype == "float32" else B.max(value, held)

        def take(at: Expr) -> None:
            accumulator[0] = join(accumulator[0], vmath.convert(x.load(at, lanes, self.strides[1]), element))

        def inside() -> None:
            accumulator[0] = start
            origin = sum((r.origin * s for r, s in zip(ranges, self.strides[2:], strict=True)), x_at)
            origin = B.bind(origin)
            for taps in product(*(range(w.kernel) for w in self.windows)):
                steps = zip(taps, self.windows, self.strides[2:], strict=True)
                take(origin + sum(tap * w.dilation * s for tap, w, s in steps))

        def clipped() -> None:
            grand[0] = start
            *outer, innermost = ranges
            with ExitStack() as stack:
                at = x_at
                for r, s in zip(outer, self.strides[2:], strict=False):
                    tap = stack.enter_context(B.serial(r.taps))
                    at = at + r.address(tap, s)
                # sums of a row, or a part of it: one long running sum would round too often
                chunk = stack.enter_context(B.serial((innermost.taps + (CHUNK - 1)) // CHUNK))
                first = B.bind(chunk * CHUNK)
                accumulator[0] = start
                with B.serial(B.min(innermost.taps - first, CHUNK)) as tap:
                    take(B.bind(at + innermost.address(first + tap, self.strides[-1])))
                grand[0] = join(grand[0], accumulator[0])
            accumulator[0] = grand[0]

        if self.windows and math.prod(w.kernel for w in self.windows) <= _UNROLLED_TAPS:
            whole = [tirx.all(r.begin <= 0, r.end >= w.kernel) for r, w in zip(ranges, self.windows, strict=True)]
            _choose(tirx.all(*whole), inside, clipped)
        else:
            clipped()
        if self.op == "max":
            return accumulator[0]
        if self.average is not None:
            return self._integers(accumulator[0], ranges, self.average, lanes)
        count = B.int32(self.divisor)
        if not self.divisor:
            counts = [r.padded if self.count_include_pad else r.taps for r in ranges]
            count = math.prod(counts[1:], start=counts[0]) if counts else B.int32(1)
        return accumulator[0] / broadcast(B.cast(count, "float32"), lanes)

    def _integers(self, sums: Expr, ranges: Sequence[_Range], how: Average, lanes: int) -> Expr:
        """Biased 8-bit integers from sums of them; what a window has outside of the image adds nothing."""
        taps = math.prod((r.taps for r in ranges), start=B.int32(1))
        shifted = hold(sums - broadcast(B.bind(taps * how.offset), lanes))
        result = requantize([(shifted, how.factor)], how.zero, how.low, how.high, how.mode)
        return vmath.convert(result + constant(128, "int32", lanes), "uint8")

    def _range(self, d: int, index: Expr) -> _Range:
        size, out = self.shape[d + 2], self.out_shape[d + 2]
        if not self.windows:
            origin = B.bind(index * size // out)
            end = B.bind(((index + 1) * size + (out - 1)) // out - origin)
            return _Range(origin, B.int32(0), end, 1, end)
        w = self.windows[d]
        origin = B.bind(index * w.stride - w.padding)
        begin = B.bind(B.max(0, (w.dilation - 1 - origin) // w.dilation)) if w.padding else B.int32(0)
        end = B.bind(B.min(w.kernel, (size - 1 - origin) // w.dilation + 1))
        padded = B.bind(B.min(w.kernel, size + w.padding - origin))
        return _Range(origin, begin, end, w.dilation, padded)


@dataclass(frozen=True)
class _Range:
    """Which taps of a window lie in the image: begin to end - 1, at origin + tap * dilation."""

    origin: Expr
    begin: Expr
    end: Expr
    dilation: int
    padded: Expr  # taps in the image or its declared padding

    @property
    def taps(self) -> Expr:
        """How many they are."""
        return B.max(self.end - self.begin, 0)

    def address(self, tap: Expr, stride: int) -> Expr:
        """Where one of them lies, in elements from the image's edge."""
        return (self.origin + (self.begin + tap) * self.dilation) * stride


def _choose(condition: Expr, yes: Callable[[], None], no: Callable[[], None]) -> None:
    with B.If(condition):
        with B.Then():
            yes()
        with B.Else():
            no()


def pool_kernel(
    op: str,
    shape: Sequence[int],
    out_spatial: Sequence[int],
    windows: Sequence[Window],
    strides: Sequence[int],
    out_strides: Sequence[int],
    target: CpuTarget,
    *,
    count_include_pad: bool = True,
    divisor: int = 0,
    dtype: str = "float32",
    average: Average | None = None,
) -> Pool:
    """Make a pooling for a target; no windows means adaptive pooling. See Pool for the arguments."""
    return Pool(
        op,
        tuple(shape),
        (*shape[:2], *out_spatial),
        tuple(windows),
        tuple(strides),
        tuple(out_strides),
        count_include_pad,
        divisor,
        target.vector.lanes * (4 if dtype == "uint8" else 1),
        target.cores,
        dtype,
        average,
    )
