"""Barriers of blocks and of warps, and fences."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..accesses import refuse_poison
from ..compiler import Compiler, Expression, intrinsic, name_of
from ..state import State
from ..threads import WARP, Array
from ..violations import DivergentBarrier, InvalidOperand


@intrinsic("tvm_storage_sync")
def _storage_sync(c: Compiler, node: Any) -> Expression:
    scope = str(node.args[0].value)
    if scope == "warp":
        return _warp_sync
    if scope not in ("shared", "shared.dyn"):
        c.unknown(f"barrier of scope {scope}")
    return _block_sync


@intrinsic("cuda.cta_sync")
def _cta_sync(c: Compiler, node: Any) -> Expression:
    return _block_sync


@intrinsic("ptx.bar_sync", "ptx.barrier_sync")
def _bar_sync(c: Compiler, node: Any) -> Expression:
    return _block_sync


@intrinsic("cuda.warp_sync")
def _sync_warp(c: Compiler, node: Any) -> Expression:
    return _warp_sync


@intrinsic("ptx.bar_warp_sync")
def _bar_warp(c: Compiler, node: Any) -> Expression:
    mask = c.expression(node.args[0])

    def run(s: State) -> None:
        require_lanes(s, mask(s), "bar.warp.sync")
        s.warp_barrier()

    return run


@intrinsic("cuda.syncthreads_and", "cuda.syncthreads_or")
def _sync_and_vote(c: Compiler, node: Any) -> Expression:
    condition, conjunction = c.expression(node.args[0]), name_of(node).endswith("and")

    def run(s: State) -> Array:
        votes = np.broadcast_to(condition(s) != 0, (s.batch.size,))
        refuse_poison(s, "a condition")
        s.barrier("__syncthreads_and" if conjunction else "__syncthreads_or")
        votes = (votes | ~s.active()) if conjunction else (votes & s.active())
        whole = votes.reshape(s.batch.blocks, -1)
        result = np.asarray(whole.all(axis=1) if conjunction else whole.any(axis=1))
        found: Array = result[s.batch.block].astype(np.int32)
        return found

    return run


@intrinsic("cuda.thread_fence", "ptx.fence", "ptx.fence_proxy")
def _fence(c: Compiler, node: Any) -> Expression:
    """A fence orders the writes of a thread; it makes nobody wait."""
    return lambda s: None


def _block_sync(s: State) -> None:
    s.barrier("__syncthreads()")


def _warp_sync(s: State) -> None:
    require_whole_warps(s, "__syncwarp()")
    s.warp_barrier()


def require_whole_warps(s: State, what: str) -> None:
    """All threads of each warp that has an active one must be active. Raises DivergentBarrier."""
    if s.mask is None:
        return
    here = s.batch.to_warps(s.mask)
    expected = s.batch.to_warps(np.ones_like(s.mask) if s.returned is None else ~s.returned)
    present = np.asarray(here.any(axis=1))
    missing = expected & ~here & present[:, None]
    if missing.any():
        row = int(np.argmax(s.batch.from_warps(missing)))
        s.fail(
            DivergentBarrier,
            f"{what} must be reached by all threads of a warp, not by some of them: this thread does not come",
            "move it out of the condition or loop that depends on the thread",
            row,
        )


def lane_masks(s: State) -> Array:
    """The bits of the active lanes of each warp, a uint32 for each thread."""
    lanes = s.batch.to_warps(s.active(), fill=False).astype(np.uint64)
    masks = (lanes << np.arange(WARP, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    found: Array = masks[s.batch.warp].astype(np.uint32)
    return found


def require_lanes(s: State, mask: Array, what: str) -> None:
    """The lanes that a mask names, as far as they exist, must be the active ones."""
    exists = s.batch.to_warps(np.ones(s.batch.size, dtype=np.bool_), fill=False).astype(np.uint64)
    whole = (exists << np.arange(WARP, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)[s.batch.warp]
    named = np.broadcast_to(mask, (s.batch.size,)).astype(np.uint64) & whole
    here = lane_masks(s).astype(np.uint64)
    wrong = (named != here) & s.active()
    if wrong.any():
        row = int(np.argmax(wrong))
        s.fail(
            InvalidOperand if (named[row] & here[row]) != here[row] else DivergentBarrier,
            f"the mask of {what} must name the lanes that run it, {int(here[row]):#x}, not {int(named[row]):#x}",
            "let all lanes of the mask reach the instruction",
            row,
        )
