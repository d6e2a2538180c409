"""Who wrote and who read each granule of a memory, and what no barrier orders.

A granule is the smallest piece that any access of the kernel touches. For each one the newest stamp of a write is kept,
and of reads since a barrier the least and the greatest thread, which is enough to know whether another thread read.
"""

from __future__ import annotations

import numpy as np

from .state import CLOCK, State
from .threads import Array
from .violations import Race, Uninitialised

NUMBER = (1 << CLOCK) - 1
IN_FLIGHT = 1 << 62  # added to the stamp of a granule that an asynchronous copy will write
REMEDY = "put a barrier between the two, or keep the threads to their own elements"


class Tracker:
    """Stamps of one memory. `private` is False where threads of other blocks reach it, too."""

    def __init__(self, name: str, granules: int, private: bool, written: bool, reads: bool) -> None:
        self.name = name
        self.private = private
        self.write = np.full(granules, 0 if written else -1, dtype=np.int64)
        self.reads = reads
        self.high = np.zeros(granules if reads else 0, dtype=np.int64)
        self.low = np.zeros(granules if reads else 0, dtype=np.int64)
        self.last_read = np.zeros(granules if reads else 0, dtype=np.int64)

    def _unordered(self, s: State, stamps: Array, rows: Array, when: Array | None = None) -> Array:
        """Which stamps are another thread's and not before the last barrier of these threads.

        `when` is the time that counts for the barriers of a warp, if it is not that of the stamps.
        """
        now, since = (_like(each if rows is s.batch.row else each[rows], stamps) for each in (s.now, s.since_barrier))
        found: Array = (stamps >= since) & (stamps != now)
        if not self.private:
            low = _like((s.batch.block[rows] + s.batch.first) * s.batch.threads, stamps)
            number = stamps & NUMBER
            found |= (stamps >> CLOCK > 0) & ((number < low) | (number >= low + s.batch.threads))
        if not found.any():
            return found
        number = stamps & NUMBER
        found &= (number != (now & NUMBER)) | (stamps >= IN_FLIGHT)
        threads = s.batch.threads
        same_warp = (number // threads == (now & NUMBER) // threads) & (
            number % threads // 32 == (now & NUMBER) % threads // 32
        )
        found &= ~(same_warp & ((stamps if when is None else when) < _like(s.since_warp_barrier[rows], stamps)))
        return found

    def read(self, s: State, granules: Array, rows: Array) -> None:
        """Threads `rows` read these granules, [threads, ...]. Raises Race and Uninitialised."""
        stamps = self.write[granules]
        bad = self._unordered(s, stamps, rows)
        if bad.any():
            self._raise_race(s, "read", "wrote", stamps, bad, rows)
        if stamps.min(initial=0) < 0:
            self.require_written(s, granules, rows)
        if not self.reads:
            return
        now = _like(s.since_barrier[rows] | s.batch.number[rows], granules)
        turned = _like(s.since_barrier[rows] | (NUMBER - s.batch.number[rows]), granules)
        self.high[granules] = np.maximum(self.high[granules], now)  # the last of equal addresses wins, and is greatest
        self.low[granules[::-1]] = np.maximum(self.low[granules], turned)[::-1]
        self.last_read[granules] = s.clock << CLOCK

    def require_written(self, s: State, granules: Array, rows: Array) -> None:
        """Raise Uninitialised where nothing has written these granules."""
        missing = self.write[granules] < 0
        if missing.any():
            s.fail(
                Uninitialised,
                f"{self.name} must be written before it is read, not read where nothing was written",
                "fill it, or predicate the read as the write was",
                int(rows[_first_thread(missing)]),
            )

    def written(self, s: State, granules: Array, rows: Array, changed: Array | None, flight: bool = False) -> None:
        """Threads `rows` write these granules; `changed` marks those whose value is not what was there already."""
        stamps = self.write[granules]
        bad = self._unordered(s, stamps, rows)
        if changed is not None:
            bad &= changed | (stamps >= IN_FLIGHT)
        if bad.any():
            self._raise_race(s, "write", "wrote", stamps, bad, rows)
        if self.reads:
            self._check_readers(s, granules, rows)
        self.write[granules] = _like(s.now[rows], granules) + (IN_FLIGHT if flight else 0)

    def landed(self, s: State, granules: Array, rows: Array) -> None:
        """An asynchronous copy of these threads has arrived, and they have waited for it."""
        self.write[granules] = _like(s.now[rows], granules)

    def _check_readers(self, s: State, granules: Array, rows: Array) -> None:
        high, low = self.high[granules], self.low[granules]
        low = np.where(low > 0, (low & ~np.int64(NUMBER)) | (NUMBER - (low & NUMBER)), 0)
        one_warp = (high & NUMBER) // 32 == (low & NUMBER) // 32
        when = np.where(one_warp, self.last_read[granules], IN_FLIGHT)
        for stamps in (high, low):
            bad = self._unordered(s, stamps, rows, when)
            if bad.any():
                self._raise_race(s, "write", "read", stamps, bad, rows)

    def _raise_race(self, s: State, what: str, other: str, stamps: Array, bad: Array, rows: Array) -> None:
        index = np.unravel_index(int(np.argmax(bad)), bad.shape)
        stamp = int(stamps[index])
        row = int(rows[index[0]])
        who = s.name_of(stamp & NUMBER)
        if stamp >= IN_FLIGHT:
            s.fail(
                Race,
                f"{what} of {self.name} must come after cp.async.wait and a barrier, "
                f"not while a copy of {who} is under way",
                "wait for the copy's group, then put a barrier before the access",
                row,
            )
        s.fail(Race, f"{what} of {self.name} must be ordered with {who}, which {other} it, by a barrier", REMEDY, row)


def _like(values: Array, shape_of: Array) -> Array:
    """One value a thread, with axes of length one for what else the other array has."""
    return values.reshape(values.shape + (1,) * (shape_of.ndim - values.ndim))


def _first_thread(bad: Array) -> int:
    return int(np.unravel_index(int(np.argmax(bad)), bad.shape)[0])
