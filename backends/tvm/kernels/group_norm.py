"""Group norm and instance norm, in any order of channels and pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from .base import Access, Expr, Registers, broadcast, scratch
from .loops import LAUNCH_COST, Axis, collapse, nest, offset_of, run
from .norm import Norm
from .sums import CHUNK, UNROLL, sum_of
from .vmath import constant, hold, opaque, rsqrt, square


@dataclass(frozen=True)
class GroupNorm(Norm):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, statistics over each of `groups` groups of
    channels.

    float32 views in the order [batch, channels, spatial...], whatever their strides: channels-first and
    channels-last are
    both fast. groups = channels is instance norm. weight and bias have one entry a channel. Operands: x,
    weight?,
    bias?, y. Use `group_norm_kernel` to make one for a target.
    """

    name: ClassVar[str] = "group-norm"
    groups: int

    def __post_init__(self) -> None:
        if self.shape[1] % self.groups:
            raise InvalidInput(f"groups must divide the {self.shape[1]} channels, not {self.groups}")

    def describe(self) -> str:
        return f"group-norm {'x'.join(map(str, self.shape))} in {self.groups} groups"

    def emit(self, *operands: Access) -> None:
        given = dict(zip((operand.name for operand in self.operands()), operands, strict=True))
        if 0 in self.shape:
            B.evaluate(B.int32(0))
            return
        threads = self.threads if self.flops() >= LAUNCH_COST else 1
        channels = self.shape[1]
        size = channels // self.groups
        last = self.strides[1] == 1 and self.out_strides[1] == 1 and channels > 1
        # channels-last: as many whole groups at once as fill some vectors; otherwise a group at a time
        together = 1
        while last and together * size < 2 * self.lanes and self.groups % (2 * together) == 0:
            together *= 2
        tasks = self.groups // together
        with nest([Axis(self.shape[0], ()), Axis(tasks, ())], threads) as (n, task):
            first = B.bind(task * (together * size))
            y_base = B.bind(n * self.out_strides[0] + first * self.out_strides[1])
            x_base = B.bind(n * self.strides[0] + first * self.strides[1])
            emit = self._emit_last if last else self._emit_first
            emit(given, x_base, y_base, first, together)

    def _affine(self, given: dict[str, Access], channel: Expr, mean: Expr, scale: Expr) -> tuple[Expr, Expr]:
        # what a channel is multiplied by and what is added then
        if self.weight:
            scale = hold(scale * given["weight"].load(channel))
        shift = opaque(constant(0, "float32")) - mean * scale
        if self.bias:
            shift = given["bias"].load(channel) - mean * scale
        return scale, hold(shift)

    def _emit_first(self, given: dict[str, Access], x_base: Expr, y_base: Expr, first: Expr, together: int) -> None:
        # one group; vectors along the innermost run of channel and space
        x, y, size = given["x"], given["y"], self.shape[1] // self.groups
        space = collapse(self.shape[2:], [self.out_strides[2:], self.strides[2:]])
        *outer, row = space
        channel = Axis(size, (self.out_strides[1], self.strides[1]))
        count = size * math.prod(self.shape[2:])
        total = Registers(1, 1)

        def over_group(element: Callable[[Expr, int], Expr]) -> Expr:
            total[0] = constant(0, "float32")
            with nest([channel, *outer], 1) as where:
                base = offset_of(where, [channel, *outer], 1, x_base)
                stride = row.strides[1]
                value = sum_of(
                    row.size,
                    self.lanes,
                    lambda i, lanes: element(x.load(base + i * stride, lanes, stride), lanes),
                )
                total[0] = total[0] + value
            return hold(total[0] * constant(1.0 / count, "float32"))

        mean = over_group(lambda value, lanes: value)
        variance = over_group(lambda value, lanes: square(value - broadcast(mean, lanes)))
        inverse = hold(rsqrt(variance + constant(self.eps, "float32")))
        with B.serial(size) as c:
            scale, shift = self._affine(given, first + c, mean, inverse)
            with nest(outer, 1) as where:
                y_row = offset_of(where, outer, 0, y_base + c * self.out_strides[1])
                x_row = offset_of(where, outer, 1, x_base + c * self.strides[1])

                def finish(i: Expr, lanes: int, slot: int) -> None:
                    value = x.load(x_row + i * row.strides[1], lanes, row.strides[1])
                    value = value * broadcast(scale, lanes) + broadcast(shift, lanes)
                    y.store(y_row + i * row.strides[0], value, lanes, row.strides[0])

                run(row.size, self.lanes, finish, UNROLL)

    def _emit_last(self, given: dict[str, Access], x_base: Expr, y_base: Expr, first: Expr, together: int) -> None:
        # several groups, their channels side by side; vectors along the channels
        x, y, size = given["x"], given["y"], self.shape[1] // self.groups
        width = together * size
        space = collapse(self.shape[2:], [self.out_strides[2:], self.strides[2:]])
        count = size * math.prod(self.shape[2:])
        *outer, row = space
        sums, partial, means, factors = (scratch(width) for _ in range(4))

        def over_groups(element: Callable[[Expr, Expr, int], Expr], write: Callable[[Expr, Expr], None]) -> None:
            # sums every channel over space, chunk by chunk, then every group over its channels;
            # `write(group, mean)` takes the result
            def clear(memory: Access) -> None:
                run(width, self.lanes, lambda c, lanes, slot: memory.store(c, constant(0, "float32", lanes), lanes))

            clear(sums)
            with nest(outer, 1) as where, B.serial(-(-row.size // CHUNK)) as chunk:
                first = B.bind(chunk * CHUNK)
                clear(partial)
                with B.serial(B.min(row.size - first, CHUNK)) as step:
                    base = offset_of([*where, first + step], space, 1, x_base)

                    def add(c: Expr, lanes: int, slot: int) -> None:
                        value = element(x.load(base + c, lanes), c, lanes)
                        partial.store(c, partial.load(c, lanes) + value, lanes)

                    run(width, self.lanes, add)

                def join(c: Expr, lanes: int, slot: int) -> None:
                    sums.store(c, sums.load(c, lanes) + partial.load(c, lanes), lanes)

                run(width, self.lanes, join)
            with B.serial(together) as group:
                value = sum_of(size, self.lanes, lambda i, lanes: sums.load(group * size + i, lanes))
                write(group, hold(value * constant(1.0 / count, "float32")))

        def keep_mean(group: Expr, mean: Expr) -> None:
            run(size, self.lanes, lambda i, n, slot: means.store(group * size + i, broadcast(mean, n), n))

        def keep_affine(group: Expr, variance: Expr) -> None:
            inverse = hold(rsqrt(variance + constant(self.eps, "float32")))
            with B.serial(size) as i:
                c = B.bind(group * size + i)
                scale, shift = self._affine(given, first + c, hold(means.load(c)), inverse)
                factors.store(c, scale)
                means.store(c, shift)

        over_groups(lambda value, c, lanes: value, keep_mean)
        over_groups(lambda value, c, lanes: square(value - means.load(c, lanes)), keep_affine)
        with nest(space, 1) as where:
            y_row, x_row = offset_of(where, space, 0, y_base), offset_of(where, space, 1, x_base)

            def finish(c: Expr, lanes: int, slot: int) -> None:
                value = x.load(x_row + c, lanes) * factors.load(c, lanes) + means.load(c, lanes)
                y.store(y_row + c, value, lanes)

            run(width, self.lanes, finish)


def group_norm_kernel(
    shape: Sequence[int],
    groups: int,
    strides: Sequence[int],
    out_strides: Sequence[int],
    eps: float,
    target: CpuTarget,
    *,
    weight: bool = True,
    bias: bool = True,
) -> GroupNorm:
    """Make a group norm for a target; see GroupNorm for the arguments."""
    layout = tuple(shape), tuple(strides), tuple(out_strides)
    return GroupNorm(*layout, eps, weight, bias, target.vector.lanes, target.cores, groups)
