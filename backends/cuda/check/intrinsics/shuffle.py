"""Values that go between the lanes of a warp: shuffles, votes and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..compiler import Compiler, Expression, intrinsic, name_of
from ..state import State
from ..threads import WARP, Array
from .barriers import lane_masks, require_lanes, require_whole_warps

KINDS = {
    "cuda.__shfl_sync": "idx",
    "cuda.__shfl_up_sync": "up",
    "cuda.__shfl_down_sync": "down",
    "cuda.__shfl_xor_sync": "bfly",
    "tvm_warp_shuffle": "idx",
    "tvm_warp_shuffle_up": "up",
    "tvm_warp_shuffle_down": "down",
    "tvm_warp_shuffle_xor": "bfly",
}


@intrinsic(*KINDS)
def _shuffle(c: Compiler, node: Any) -> Expression:
    """Operands: mask, value, lane or distance, width."""
    kind = KINDS[name_of(node)]
    mask, value, operand, width = (c.expression(each) for each in node.args[:4])

    def run(s: State) -> Array:
        require_lanes(s, mask(s), f"shfl.{kind}")
        return exchange(s, value, source_lanes(s, kind, operand(s), width(s)))

    return run


def source_lanes(s: State, kind: str, operand: Array, width: Array) -> Array:
    """The lane each thread reads, by the table of __shfl_sync: its own where the other is outside its segment."""
    lane = s.batch.lane
    size = np.broadcast_to(width, lane.shape).astype(np.int64)
    distance = np.broadcast_to(operand, lane.shape).astype(np.int64)
    segment = lane // size * size
    if kind == "idx":
        return segment + distance % size
    target = {"up": lane - distance, "down": lane + distance, "bfly": lane ^ distance}[kind]
    inside = (target >= segment) if kind == "up" else (target < segment + size)
    return np.where(inside, target, lane)


def exchange(s: State, value: Expression, lanes: Array) -> Array:
    """Each thread's value of `value` in the lane that it names; a lane that is not there gives an unwritten value."""
    batch = s.batch
    before, s.poison = s.poison, None
    own = np.broadcast_to(value(s), (batch.size,))
    poison = ~s.active() if s.poison is None else s.poison | ~s.active()
    s.poison = before
    rows = np.arange(batch.warps)[:, None]
    source = batch.to_warps(lanes)
    found: Array = batch.from_warps(batch.to_warps(own)[rows, source])
    s.add_poison(batch.from_warps(batch.to_warps(poison, fill=True)[rows, source]))
    return found


@intrinsic("cuda.__activemask", "tvm_warp_activemask")
def _active_mask(c: Compiler, node: Any) -> Expression:
    return lane_masks


@intrinsic("cuda.ballot_sync", "cuda.any_sync")
def _vote(c: Compiler, node: Any) -> Expression:
    mask, condition, any_lane = c.expression(node.args[0]), c.expression(node.args[1]), "any" in name_of(node)

    def run(s: State) -> Array:
        require_lanes(s, mask(s), "vote")
        outer = s.mask
        s.mask = s.active() & np.broadcast_to(condition(s) != 0, (s.batch.size,))
        bits = lane_masks(s)
        s.mask = outer
        return (bits != 0).astype(np.int32) if any_lane else bits

    return run


REDUCTIONS: dict[str, Callable[..., Any]] = {"sum": np.add, "max": np.fmax, "min": np.fmin}


@intrinsic("cuda.warp_reduce")
def _warp_reduce(c: Compiler, node: Any) -> Expression:
    """A butterfly over `width` neighbouring lanes; all of them get the result."""
    value, function, width = c.expression(node.args[0]), REDUCTIONS[str(node.args[1].value)], int(node.args[2])

    def run(s: State) -> Array:
        require_whole_warps(s, "a reduction of a warp")
        found = np.broadcast_to(value(s), (s.batch.size,))
        distance = width // 2
        while distance:
            other = s.batch.to_warps(found)[:, np.arange(WARP) ^ distance]
            found = function(found, s.batch.from_warps(other)).astype(found.dtype)
            distance //= 2
        return found

    return run
