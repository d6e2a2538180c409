"""What changes while a batch of blocks is evaluated: which threads are active, variables, clocks, copies under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from .threads import Array, Batch
from .violations import DivergentBarrier, Place, Violation

CLOCK = 32  # bits of a stamp below the clock: the number of a thread in its launch


class State:
    """A batch of blocks in the middle of a kernel.

    `mask` has True for threads that run the current statement, or is None where all do. `poison` marks threads whose
    value, in the expression under evaluation, depends on a register that was never written; a statement that makes
    the value matter reports it. `stopped` marks threads that have left the loop iteration, loop or kernel.

    Time is a clock that ticks at every barrier. A stamp is `clock << 32 | thread number`: `now` holds each thread's;
    `since_barrier` and `since_warp_barrier` hold the least stamp of what no barrier yet separates from the thread.
    """

    def __init__(self, batch: Batch, variables: int, locate: Callable[[Any], tuple[str, int, str]]) -> None:
        self.batch = batch
        self.mask: Array | None = None
        self.poison: Array | None = None
        self.continued: Array | None = None
        self.broken: Array | None = None
        self.returned: Array | None = None
        self.variables: list[Any] = [None] * variables
        self.statement: Any = None
        self.copies: list[Any] = []
        self.commits = np.zeros(batch.size, dtype=np.int64)
        self.clock = 1
        self.since_barrier = np.full(batch.size, 1 << CLOCK, dtype=np.int64)
        self.since_warp_barrier = self.since_barrier.copy()
        self.now = batch.number + (1 << CLOCK)
        self._locate = locate

    # ---- threads that are active

    def active(self) -> Array:
        """The mask as an array."""
        return np.ones(self.batch.size, dtype=np.bool_) if self.mask is None else self.mask

    def any(self, mask: Array | None) -> bool:
        return mask is None or bool(mask.any())

    def narrowed(self, condition: Array) -> Array | None:
        """The mask of active threads for which the condition holds; None where that is all threads."""
        mask = condition if self.mask is None else condition & self.mask
        return None if mask.all() else mask

    def left(self, mask: Array | None) -> Array | None:
        """`mask` without the threads that have stopped."""
        for stopped in (self.continued, self.broken, self.returned):
            if stopped is not None:
                mask = ~stopped if mask is None else mask & ~stopped
        return mask

    def add_poison(self, threads: Array) -> None:
        """The value of these threads depends on a register that was never written."""
        if self.mask is not None:
            threads = threads & self.mask
        if threads.any():
            self.poison = threads if self.poison is None else self.poison | threads

    # ---- time

    def barrier(self, what: str) -> None:
        """All threads of each block meet. Raises DivergentBarrier where some threads of a block do not come."""
        expected = np.ones(self.batch.size, dtype=np.bool_) if self.returned is None else ~self.returned
        here = self.active()
        blocks = np.asarray(here.reshape(self.batch.blocks, -1).any(axis=1))
        missing = expected & ~here & blocks[self.batch.block]
        if missing.any():
            row = int(np.argmax(missing))
            self.fail(
                DivergentBarrier,
                f"{what} must be reached by all {self.batch.threads} threads of a block, "
                f"not by {int(here[self.batch.block == self.batch.block[row]].sum())}: this thread does not come",
                "move it out of the condition or loop that depends on the thread",
                row,
            )
        self.tick(here, self.since_barrier)

    def warp_barrier(self) -> None:
        """Active threads of each warp meet."""
        self.tick(self.active(), self.since_warp_barrier)

    def tick(self, threads: Array, since: Array) -> None:
        """Let time pass: what was done so far is before what these threads do from now on."""
        self.clock += 1
        since[threads] = self.clock << CLOCK
        np.maximum(self.since_warp_barrier, self.since_barrier, out=self.since_warp_barrier)
        self.now = self.batch.number + (self.clock << CLOCK)

    # ---- errors

    def fail(self, kind: type[Violation], rule: str, remedy: str, row: int | None = None) -> NoReturn:
        """Raise a violation of the current statement by one thread of the batch."""
        kernel, line, text = self._locate(self.statement)
        block, thread = (None, None) if row is None else self.batch.place(row)
        raise kind(rule, remedy, Place(kernel, line, text, block, thread))

    def name_of(self, number: int) -> str:
        """A thread of the launch in words."""
        block, thread = self.batch.place_of(number)
        return f"thread {thread} of block {block}"
