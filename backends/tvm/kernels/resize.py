"""Resampling of images: nearest, linear and cubic over any number of spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from .base import Access, Expr, Kernel, Operand, Registers, broadcast
from .loops import LAUNCH_COST, Axis, nest, offset_of
from .vmath import constant, hold, opaque

MODES = ("nearest", "nearest-exact", "linear", "cubic")
_TAPS = {"nearest": 1, "nearest-exact": 1, "linear": 2, "cubic": 4}
_A = -0.75  # PyTorch's cubic kernel


@dataclass(frozen=True)
class Resize(Kernel):
    """Resample a float32 view in the order [batch, channels, spatial...], whatever its strides; vectors run
    over channels.

    `ratios` has, for each spatial dimension, the input pixels per output pixel: 1 / scale_factor when
    the caller gave one, else what `resize_kernel` works out. Borders are clamped. No antialiasing.
    """

    name: ClassVar[str] = "resize"
    mode: str
    shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    ratios: tuple[float, ...]
    align_corners: bool
    strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    lanes: int
    threads: int

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidInput(f"resize mode must be one of {sorted(MODES)}, not {self.mode!r}")
        if 0 in self.shape:
            raise InvalidInput(f"resized image must have at least one pixel, not shape {self.shape!r}")

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", "float32"), Operand("y", "float32", write=True)

    def flops(self) -> int:
        taps: int = _TAPS[self.mode] ** (len(self.shape) - 2)
        return 2 * math.prod(self.out_shape) * taps

    def describe(self) -> str:
        return f"resize {self.mode} {'x'.join(map(str, self.shape))} -> {'x'.join(map(str, self.out_shape))}"

    def emit(self, x: Access, y: Access) -> None:
        batch, channels, *spatial = self.out_shape
        if 0 in self.out_shape:
            B.evaluate(B.int32(0))
            return
        outer = [Axis(batch, (self.out_strides[0], self.strides[0]))]
        outer += [Axis(n, (s, 0)) for n, s in zip(spatial, self.out_strides[2:], strict=True)]
        lanes = min(self.lanes, 1 << (channels.bit_length() - 1))
        with nest(outer, self.threads if self.flops() >= LAUNCH_COST else 1) as where:
            taps = [self._taps(d, index) for d, index in enumerate(where[1:])]
            y_at, x_at = (offset_of(where, outer, k) for k in (0, 1))
            with B.serial(-(-channels // lanes)) as step:
                # a last vector that does not fit is moved back over its neighbour
                first = B.bind(step * lanes if channels % lanes == 0 else B.min(step * lanes, channels - lanes))
                value = self._sample(x, x_at + first * self.strides[1], taps, lanes)
                y.store(y_at + first * self.out_strides[1], value, lanes, self.out_strides[1])

    def _sample(self, x: Access, at: Expr, taps: Sequence[Sequence[tuple[Expr, Expr]]], lanes: int) -> Expr:
        # the weighted sum over the taps of the first dimension of what the other dimensions give
        if not taps:
            return x.load(at, lanes, self.strides[1])
        stride = self.strides[len(self.shape) - len(taps)]
        if len(taps[0]) == 1:
            return self._sample(x, B.bind(at + taps[0][0][0] * stride), taps[1:], lanes)
        total = Registers(1, lanes)
        total[0] = constant(0, "float32", lanes)
        for index, weight in taps[0]:
            value = self._sample(x, B.bind(at + index * stride), taps[1:], lanes)
            total[0] = total[0] + hold(value) * broadcast(weight, lanes)
        return total[0]

    def _taps(self, d: int, index: Expr) -> list[tuple[Expr, Expr]]:
        # (input index, weight) of each tap, computed in float32 as PyTorch does
        last = B.int32(self.shape[d + 2] - 1)
        ratio, place = constant(self.ratios[d], "float32"), B.cast(index, "float32")
        half, one = constant(0.5, "float32"), constant(1.0, "float32")
        if _TAPS[self.mode] == 1:
            place = place if self.mode == "nearest" else place + half
            nearest = B.cast(B.floor(hold(place * ratio)), "int32")
            return [(hold(B.max(B.min(nearest, last), 0)), one)]
        source = hold(place * ratio if self.align_corners else ratio * (place + half) - half)
        if self.mode == "linear":
            source = hold(B.max(source, constant(0, "float32")))
        floor = hold(B.floor(source))
        t, low = hold(opaque(source) - floor), hold(B.cast(floor, "int32"))
        if self.mode == "linear":
            low = hold(B.min(low, last))
            return [(low, hold(one - t)), (hold(B.min(low + 1, last)), t)]
        weights = [
            _cubic_far(t + one),
            _cubic_near(t),
            _cubic_near(hold(one - t)),
            _cubic_far(hold(one - t) + one),
        ]
        return [(hold(B.max(B.min(low + (k - 1), last), 0)), weight) for k, weight in enumerate(weights)]


def _cubic_near(t: Expr) -> Expr:
    a, one = constant(_A, "float32"), constant(1.0, "float32")
    return hold(((a + constant(2, "float32")) * t - (a + constant(3, "float32"))) * t * t + one)


def _cubic_far(t: Expr) -> Expr:
    t, a = hold(t), _A
    inner = (constant(a, "float32") * t - constant(5 * a, "float32")) * t + constant(8 * a, "float32")
    return hold(inner * t - constant(4 * a, "float32"))


def resize_kernel(
    mode: str,
    shape: Sequence[int],
    out_spatial: Sequence[int],
    strides: Sequence[int],
    out_strides: Sequence[int],
    target: CpuTarget,
    *,
    align_corners: bool = False,
    scale_factors: Sequence[float | None] | None = None,
) -> Resize:
    """Make a resize for a target. `mode` is one of MODES ("linear" is bilinear in 2 dimensions, "cubic"
    bicubic).

    `scale_factors` are those the caller gave to PyTorch explicitly; where None, sizes decide.
    """
    factors = scale_factors or [None] * len(out_spatial)
    ratios = []
    for size, out, factor in zip(shape[2:], out_spatial, factors, strict=True):
        if align_corners and mode in ("linear", "cubic"):
            ratios.append((size - 1) / (out - 1) if out > 1 else 0.0)
        else:
            ratios.append(1.0 / factor if factor else size / out)
    out_shape = (*shape[:2], *out_spatial)
    layout = tuple(strides), tuple(out_strides)
    corners = align_corners and mode in ("linear", "cubic")
    return Resize(mode, tuple(shape), out_shape, tuple(ratios), corners, *layout, target.vector.lanes, target.cores)
