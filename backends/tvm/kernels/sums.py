"""Sums of many elements. One running sum of thousands would round too often, so chunks are summed on their own."""

from __future__ import annotations

import operator
from collections.abc import Callable

from tvm.tirx.script import builder as B

from .base import Expr, Registers
from .loops import run
from .reduce import across
from .vmath import constant, hold

CHUNK = 64  # elements a lane that are summed on their own
UNROLL = 4  # separate sums, to hide the latency of an addition


def mean_of(count: int, lanes: int, element: Callable[[Expr, int], Expr]) -> Expr:
    """The mean of `element(start, lanes)` over `count` adjacent elements, as a scalar."""
    return hold(sum_of(count, lanes, element) * constant(1.0 / count, "float32"))


def sum_of(count: int, lanes: int, element: Callable[[Expr, int], Expr]) -> Expr:
    """The sum of `element(start, lanes)` over `count` adjacent elements, as a scalar.

    Long sums are made of sums of chunks: one running sum of thousands of elements would round too often.
    """
    lanes = min(lanes, 1 << (count.bit_length() - 1))
    chunk = CHUNK * UNROLL * lanes
    if count < 2 * chunk:
        return _sum(0, count, lanes, element)
    total = Registers(1, 1)
    total[0] = constant(0, "float32")
    with B.serial(count // chunk) as index:
        total[0] = total[0] + _sum(B.bind(index * chunk), chunk, lanes, element)
    if count % chunk:
        total[0] = total[0] + _sum(count - count % chunk, count % chunk, lanes, element)
    return hold(total[0])


def _sum(first: Expr, count: int, lanes: int, element: Callable[[Expr, int], Expr]) -> Expr:
    lanes = min(lanes, 1 << (count.bit_length() - 1))
    sums, rest = Registers(UNROLL, lanes), Registers(1, 1)
    for slot in range(UNROLL):
        sums[slot] = constant(0, "float32", lanes)
    rest[0] = constant(0, "float32")

    def add(start: Expr, width: int, slot: int) -> None:
        if width == lanes:
            sums[slot] = sums[slot] + element(first + start, width)
        else:
            rest[0] = rest[0] + across(operator.add, hold(element(first + start, width)))

    run(count, lanes, add, UNROLL)
    total = (sums[0] + sums[1]) + (sums[2] + sums[3])
    return hold(rest[0] + across(operator.add, hold(total)))
