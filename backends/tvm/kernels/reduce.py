"""Reductions of a strided view over any set of its dimensions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from . import vmath
from .base import Access, Expr, Kernel, Operand, Registers, broadcast
from .loops import LAUNCH_COST, Axis, collapse, nest, serial
from .pointwise_ops import carrier, cast, from_carrier, is_float, size_of, to_carrier
from .vmath import constant, hold, lanes_of, like, opaque, select

_CHUNK = 1024  # elements summed straight before the sum is added to a total of sums, which bounds rounding


@dataclass(frozen=True)
class _Monoid:
    """A way to combine elements: where to start, what to do to an element, how to join two results."""

    start: Callable[[str], float | int]
    join: Callable[[Expr, Expr], Expr]
    element: Callable[[Expr], Expr] = lambda x: x


def _lowest(dtype: str) -> float | int:
    return -math.inf if is_float(dtype) else 0 if dtype == "uint8" else -(1 << (8 * size_of(dtype) - 1))


def _highest(dtype: str) -> float | int:
    return math.inf if is_float(dtype) else 255 if dtype == "uint8" else (1 << (8 * size_of(dtype) - 1)) - 1


def _max(x: Expr, y: Expr) -> Expr:
    return vmath.maximum(x, y) if vmath.element_of(x).startswith("float") else B.max(x, y)


def _min(x: Expr, y: Expr) -> Expr:
    return vmath.minimum(x, y) if vmath.element_of(x).startswith("float") else B.min(x, y)


_MONOIDS = {
    "sum": _Monoid(lambda dtype: 0, operator.add),
    "mean": _Monoid(lambda dtype: 0, operator.add),
    "prod": _Monoid(lambda dtype: 1, lambda x, y: opaque(x) * y),
    "max": _Monoid(_lowest, _max),
    "min": _Monoid(_highest, _min),
    "any": _Monoid(lambda dtype: 0, lambda x, y: x | y),
    "all": _Monoid(lambda dtype: 1, lambda x, y: x & y),
    "sum_abs": _Monoid(lambda dtype: 0, operator.add, vmath.absolute),
    "sum_square": _Monoid(lambda dtype: 0, operator.add, lambda x: opaque(x) * x),
    "norm1": _Monoid(lambda dtype: 0, operator.add, vmath.absolute),
    "norm2": _Monoid(lambda dtype: 0, operator.add, lambda x: opaque(x) * x),
    "norm_inf": _Monoid(lambda dtype: 0, _max, vmath.absolute),
}
_SPECIAL = ("var", "std", "logsumexp", "argmax", "argmin")
REDUCTIONS = (*_MONOIDS, *_SPECIAL)


@dataclass(frozen=True)
class Reduce(Kernel):
    """out[kept] = op over the dimensions `dims` of x, whose `shape` has the element strides `strides`.

    `out_strides` has one entry for each kept dimension, in order. `dtype` is the dtype of x, `out_dtype` of
    the result:
    elements are cast to it before they are combined (`any` and `all` to bool). `correction` is what var and
    std subtract from the count. argmax and argmin number the elements over `dims` in row-major order and
    yield int64; the
    first of equals wins and NaN beats numbers. Use `reduce_kernel` to make one for a target.
    """

    name: ClassVar[str] = "reduce"
    op: str
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    out_strides: tuple[int, ...]
    dtype: str
    out_dtype: str
    vector_bytes: int
    threads: int
    correction: float = 1.0

    def __post_init__(self) -> None:
        if self.op not in REDUCTIONS:
            raise InvalidInput(f"reduction must be one of {sorted(REDUCTIONS)}, not {self.op!r}")
        if not set(self.dims) <= set(range(len(self.shape))):
            raise InvalidInput(f"reduced dimensions must be within 0 to {len(self.shape) - 1}, not {self.dims!r}")

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", self.dtype), Operand("y", self.out_dtype, write=True)

    def flops(self) -> int:
        return math.prod(self.shape)

    def describe(self) -> str:
        return f"{self.op} {'x'.join(map(str, self.shape))} over {self.dims}"

    @property
    def _kept(self) -> list[Axis]:
        kept = [d for d in range(len(self.shape)) if d not in self.dims]
        strides = [self.out_strides, [self.strides[d] for d in kept]]
        return collapse([self.shape[d] for d in kept], strides)

    @property
    def _reduced(self) -> list[Axis]:
        dims = sorted(self.dims)
        if self.op in ("argmax", "argmin"):  # their order counts, so only the row-major order will do
            number = [math.prod(self.shape[d] for d in dims if d > e) for e in dims]
            return collapse([self.shape[d] for d in dims], [number, [self.strides[d] for d in dims]])
        strides = [self.strides[d] for d in dims]
        return collapse([self.shape[d] for d in dims], [strides, strides])

    def emit(self, x: Access, y: Access) -> None:
        if 0 in [self.shape[d] for d in range(len(self.shape)) if d not in self.dims]:
            B.evaluate(B.int32(0))
            return
        kept, reduced = self._kept, self._reduced
        threads = self.threads if math.prod(self.shape) >= LAUNCH_COST else 1
        wide = self.vector_bytes // max(size_of(self.dtype), size_of(self.out_dtype))
        *outer, row = kept
        across = row.strides[1] == 1 and row.size > 1
        if across or reduced[-1].strides[1] != 1:
            lanes = min(wide, 1 << (row.size.bit_length() - 1))
            steps = -(-row.size // lanes)
            with nest([*outer, Axis(steps, ())], threads) as (*where, step):
                start = B.bind(B.min(step * lanes, row.size - lanes))
                offsets = [
                    B.bind(
                        sum(
                            (i * a.strides[k] for i, a in zip(where, outer, strict=True)),
                            start * row.strides[k],
                        )
                    )
                    for k in (0, 1)
                ]
                value = self._emit_lanes(x, offsets[1], row.strides[1], lanes, reduced, 1)
                y.store(offsets[0], from_carrier(value, self.out_dtype), lanes, row.strides[0])
            return
        lanes = min(wide, 1 << (reduced[-1].size.bit_length() - 1))
        with nest(kept, threads) as where:
            offsets = [
                B.bind(sum((i * a.strides[k] for i, a in zip(where, kept, strict=True)), B.int32(0))) for k in (0, 1)
            ]
            value = self._emit_lanes(x, offsets[1], 0, 1, reduced, lanes)
            y.store(offsets[0], from_carrier(value, self.out_dtype))

    def _emit_lanes(
        self, x: Access, offset: Expr, stride: int, kept_lanes: int, reduced: Sequence[Axis], lanes: int
    ) -> Expr:
        # `kept_lanes` results at once, or one result from `lanes` elements at once
        source = _Source(x, offset, stride, kept_lanes, reduced, lanes, self)
        count = math.prod(self.shape[d] for d in self.dims)
        if self.op in ("argmax", "argmin"):
            return source.extreme(self.op == "argmax")
        if self.op in ("var", "std"):
            mean = hold(source.total(_MONOIDS["sum"]) * constant(1.0 / max(count, 1), source.dtype, kept_lanes))
            square = _Monoid(
                lambda dtype: 0,
                operator.add,
                lambda v: vmath.square(v - (mean if lanes_of(v) == kept_lanes else _spread(mean, v))),
            )
            free = max(count - self.correction, 0.0)
            variance = source.total(square) / constant(free, source.dtype, kept_lanes)
            return vmath.sqrt(variance) if self.op == "std" else variance
        if self.op == "logsumexp":
            highest = hold(source.total(_MONOIDS["max"]))
            finite = vmath.absolute(highest) < like(highest, math.inf)
            shift = hold(select(finite, highest, select(B.isnan(highest), highest, like(highest, 0))))
            terms = _Monoid(
                lambda dtype: 0,
                operator.add,
                lambda v: vmath.exp(hold(opaque(v) - (shift if lanes_of(v) == kept_lanes else _spread(shift, v)))),
            )
            return hold(vmath.log(source.total(terms)) + shift)
        value = source.total(_MONOIDS[self.op])
        if self.op == "mean":
            value = value / constant(count, source.dtype, kept_lanes)
        return vmath.sqrt(value) if self.op == "norm2" else value


def _spread(x: Expr, v: Expr) -> Expr:
    return B.broadcast(x, lanes_of(v))


class _Source:
    """The elements that one result, or one vector of results, is made of."""

    def __init__(
        self,
        x: Access,
        offset: Expr,
        stride: int,
        kept_lanes: int,
        axes: Sequence[Axis],
        lanes: int,
        kernel: Reduce,
    ) -> None:
        self.x, self.offset, self.stride, self.kept_lanes, self.axes = x, offset, stride, kept_lanes, axes
        self.lanes, self.kernel = lanes, kernel
        index = kernel.op in ("argmax", "argmin")
        self.element = kernel.dtype if index else "bool" if kernel.op in ("any", "all") else kernel.out_dtype
        self.dtype = carrier(self.element)

    def _load(self, at: Expr, lanes: int) -> Expr:
        if self.kept_lanes > 1 or lanes == 1:
            loaded = self.x.load(at, self.kept_lanes, self.stride)
        else:
            loaded = self.x.load(at, lanes, self.axes[-1].strides[1])
        return cast(to_carrier(loaded, self.kernel.dtype), self.kernel.dtype, self.element)

    def total(self, monoid: _Monoid) -> Expr:
        """Combine all elements; long sums are made of sums of at most _CHUNK elements a lane."""
        width = self.kept_lanes * self.lanes
        *outer, run = self.axes
        vectors, tail = divmod(run.size, self.lanes)
        start = constant(monoid.start(self.element), self.dtype, width)
        several = 4 if vectors >= 8 else 1
        accumulators = Registers(several, width, self.dtype)
        levels = Registers(len(outer) + 1, width, self.dtype)  # a sum for every loop around the innermost run
        levels[0] = start
        tails = Registers(len(outer) + 1, 1, self.dtype)  # the same for what is fewer than a vector
        nothing = constant(monoid.start(self.element), self.dtype)
        tails[0] = nothing
        step = self.lanes * run.strides[1]
        pieces = max(1, -(-vectors // _CHUNK))
        length = -(-vectors // pieces) // several * several or 1
        pieces, rest = divmod(vectors, length)

        def gather(base: Expr, count: int) -> None:
            for j in range(several):
                accumulators[j] = start
            with B.serial(count // several) as i:
                for j in range(several):
                    element = monoid.element(hold(self._load(base + (i * several + j) * step, self.lanes)))
                    accumulators[j] = monoid.join(accumulators[j], element)
            for j in range(count % several):
                element = monoid.element(hold(self._load(base + (count - count % several + j) * step, self.lanes)))
                accumulators[j] = monoid.join(accumulators[j], element)
            for j in range(several):
                levels[len(outer)] = monoid.join(levels[len(outer)], accumulators[j])

        def descend(depth: int, base: Expr) -> None:
            if depth < len(outer):
                with nest([outer[depth]], 1) as (i,):
                    levels[depth + 1], tails[depth + 1] = start, nothing
                    descend(depth + 1, B.bind(base + i * outer[depth].strides[1]))
                    levels[depth] = monoid.join(levels[depth], levels[depth + 1])
                    tails[depth] = monoid.join(tails[depth], tails[depth + 1])
                return
            if pieces:
                with B.serial(pieces) as piece:
                    gather(B.bind(base + piece * (length * step)), length)
            if rest:
                gather(B.bind(base + pieces * (length * step)), rest)
            if tail:
                with serial(tail, "fewer than a vector") as i:
                    value = monoid.element(hold(self._load(base + (vectors * self.lanes + i) * run.strides[1], 1)))
                    tails[depth] = monoid.join(tails[depth], value)

        descend(0, self.offset)
        if self.kept_lanes > 1 or self.lanes == 1:
            return levels[0]
        total = across(monoid.join, levels[0])
        return hold(monoid.join(total, tails[0])) if tail else total

    def extreme(self, largest: bool) -> Expr:
        """The row-major number of the largest or smallest element."""
        lanes = self.kept_lanes
        best, where = Registers(1, lanes, self.dtype), Registers(1, lanes, "int64")
        best[0] = self._load(self.offset, 1)
        where[0] = constant(0, "int64", lanes)
        with nest(self.axes, 1) as position:
            at = sum((i * a.strides[1] for i, a in zip(position, self.axes, strict=True)), self.offset)
            number = sum((i * a.strides[0] for i, a in zip(position, self.axes, strict=True)), B.int32(0))
            value = hold(self._load(at, 1))
            better = value > best[0] if largest else value < best[0]
            flag = vmath.convert(better, "int8")
            if self.dtype.startswith("float"):
                flag = flag | vmath.convert(B.isnan(value), "int8")
                known = vmath.convert(B.isnan(best[0]), "int8")
                flag = flag & (known ^ like(known, 1))
            flag = hold(flag)
            better = B.NE(flag, like(flag, 0))
            where[0] = select(better, broadcast(B.cast(number, "int64"), lanes), where[0])
            best[0] = select(better, value, best[0])
        return where[0]


def across(join: Callable[[Expr, Expr], Expr], vector: Expr) -> Expr:
    """Combine the lanes of a vector, halving it until one is left."""
    lanes = lanes_of(vector)
    while lanes > 1:
        lanes //= 2
        halves = [tirx.Shuffle([vector], [part * lanes + i for i in range(lanes)]) for part in (0, 1)]
        vector = hold(join(*halves))
    return vector


def reduce_kernel(
    op: str,
    shape: Sequence[int],
    dims: Sequence[int],
    strides: Sequence[int],
    out_strides: Sequence[int],
    dtype: str,
    out_dtype: str,
    target: CpuTarget,
    correction: float = 1.0,
) -> Reduce:
    """Make a reduction for a target; see Reduce for the arguments."""
    layout = tuple(shape), tuple(dims), tuple(strides), tuple(out_strides)
    return Reduce(op, *layout, dtype, out_dtype, 4 * target.vector.lanes, target.cores, correction)
