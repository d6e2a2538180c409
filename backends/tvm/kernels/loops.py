"""Loop nests over strided operands: collapsing dimensions, sharing work between threads, walking short
runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as B

from .base import Access, Expr

SERIAL = "fxpress.serial"  # loop annotation: this loop is serial on purpose, the value says why
LAUNCH_COST = 32768  # additions under which starting threads costs more than it saves


@dataclass(frozen=True)
class Axis:
    """A loop: its trip count and the stride of each operand along it."""

    size: int
    strides: tuple[int, ...]


def collapse(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Axis]:
    """The fewest loops that visit every index, the smallest stride of the first operand innermost.

    `strides` has one row an operand; the first is written, so its order decides. Never returns an empty list.
    """
    axes = [Axis(size, tuple(row[d] for row in strides)) for d, size in enumerate(shape) if size != 1]
    axes.sort(key=lambda axis: tuple(abs(stride) for stride in axis.strides), reverse=True)
    merged: list[Axis] = []
    for axis in axes:
        outer = merged[-1] if merged else None
        if outer and all(a == b * axis.size for a, b in zip(outer.strides, axis.strides, strict=True)):
            merged[-1] = Axis(outer.size * axis.size, axis.strides)
        else:
            merged.append(axis)
    return merged or [Axis(1, (0,) * len(strides))]


def serial(extent: Expr, reason: str) -> Any:
    """A loop that is serial on purpose, in scalar code; `reason` tells that it was not forgotten."""
    return B.serial(extent, annotations={SERIAL: reason})


@contextmanager
def nest(axes: Sequence[Axis], threads: int) -> Iterator[list[Expr]]:
    """Emit the loops of `axes`, outermost first, shared by `threads` threads; yields the loop indices."""
    if not axes:
        yield []
        return
    with ExitStack() as stack:
        if threads == 1:
            outer = stack.enter_context(serial(axes[0].size, "too little work for threads"))
            yield [outer, *(stack.enter_context(B.serial(axis.size)) for axis in axes[1:])]
            return
        # fuse as many outer loops as it takes to give every thread an equal share, or nearly
        depth, total = 1, axes[0].size
        while depth < len(axes) and total % threads and total < 16 * threads:
            total *= axes[depth].size
            depth += 1
        share = -(-total // threads)
        thread = stack.enter_context(B.parallel(threads))
        begin = B.bind(thread * share)
        step = stack.enter_context(B.serial(B.max(B.min(share, total - begin), 0)))
        fused = B.bind(begin + step)
        positions: list[Expr] = []
        rest = total
        for axis in axes[:depth]:
            rest //= axis.size
            position = fused // rest if len(positions) == 0 else (fused // rest) % axis.size
            positions.append(position if depth == 1 else B.bind(position))
        yield positions + [stack.enter_context(B.serial(axis.size)) for axis in axes[depth:]]


def blocks(y: Access, start: Expr, count: int, value: Callable[[int], Expr]) -> None:
    """Store `value(lanes)` into `count` adjacent elements, a constant number."""
    done = 0
    for lanes in (16, 8, 4, 2, 1):
        trips = (count - done) // lanes
        if trips:
            with B.serial(trips) as i:
                y.store(start + done + i * lanes, value(lanes), lanes)
            done += trips * lanes


def work(axes: Sequence[Axis]) -> int:
    """How many times the body of the loops runs."""
    return math.prod(axis.size for axis in axes)


def offset_of(position: Sequence[Expr], axes: Sequence[Axis], operand: int, start: Expr | int = 0) -> Expr:
    """The element offset of an operand at a position of the loops."""
    return B.bind(sum((i * a.strides[operand] for i, a in zip(position, axes, strict=True)), B.int32(0) + start))


@contextmanager
def vectors(
    axis: Axis, outer: Sequence[Axis], lanes: int, threads: int
) -> Iterator[tuple[int, list[Expr], list[Expr]]]:
    """Walk `outer` and, innermost, `axis` in vectors; yields the lanes, each operand's offset, the outer
    indices.

    A last vector that does not fit is moved back over its neighbour, so elements may be visited twice.
    """
    lanes = min(lanes, 1 << (axis.size.bit_length() - 1))
    with nest([*outer, Axis(-(-axis.size // lanes), ())], threads) as (*where, step):
        start = step * lanes if axis.size % lanes == 0 else B.min(step * lanes, axis.size - lanes)
        start = B.bind(start)
        offsets = [offset_of(where, outer, k, start * stride) for k, stride in enumerate(axis.strides)]
        yield lanes, offsets, where


def run(count: int, lanes: int, body: Callable[[Expr, int, int], None], unroll: int = 1) -> None:
    """Cover `count` adjacent elements once: `body(start, lanes, slot)` in a loop, then narrower for what is
    left.

    `slot` counts 0 to unroll - 1 within an iteration, for separate accumulators.
    """
    done = 0
    while done < count:
        trips = (count - done) // lanes
        if unroll > 1 and trips >= unroll:
            with B.serial(trips // unroll) as i:
                for slot in range(unroll):
                    body(B.bind(done + (i * unroll + slot) * lanes), lanes, slot)
            done += trips // unroll * unroll * lanes
        elif trips > 1:
            with B.serial(trips) as i:
                body(B.bind(done + i * lanes), lanes, 0)
            done += trips * lanes
        elif trips:
            body(B.int32(done), lanes, 0)
            done += lanes
        while lanes > max(count - done, 1):
            lanes //= 2
