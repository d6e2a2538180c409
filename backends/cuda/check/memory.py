"""The memories of a kernel: bytes with types laid over them, their bounds, and what of them has been written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .races import Tracker
from .state import State
from .threads import Array
from .violations import InvalidOperand, Misaligned, OutOfBounds, Race

ALIGNMENT = 256  # bytes that global and shared memories start at a multiple of


class Memory:
    """One allocation: a global array, the shared memory of a block, or the registers of a thread.

    `data` is [rows, bytes]: one row for global memory, one a block for shared, one a thread for local. `size` counts
    the bytes of a row that may be used. `granule` is the size in bytes of the smallest access.
    """

    def __init__(self, name: str, scope: str, data: Array, size: int, granule: int, tracker: Tracker | None) -> None:
        self.name = name
        self.scope = scope
        self.data = data
        self.size = size
        self.granule = granule
        self.tracker = tracker
        self.address = 0  # of shared memory, in the window of shared addresses
        local = scope == "local"
        self.initialised = np.zeros((data.shape[0], data.shape[1] // granule), dtype=np.bool_) if local else None
        self.complete: set[tuple[int, int]] = set()  # elements of local memory that all threads have written
        self._typed: dict[np.dtype, Array] = {}

    def typed(self, dtype: np.dtype) -> Array:
        """The memory as [rows, elements]."""
        found = self._typed.get(dtype)
        if found is None:
            whole = self.data.shape[1] // dtype.itemsize * dtype.itemsize
            self._typed[dtype] = found = self.data[:, :whole].view(dtype)
        return found

    def forget(self) -> None:
        """A new life of a local allocation: nothing of it is written."""
        if self.initialised is not None:
            self.initialised[:] = False
            self.complete.clear()

    def flat(self, dtype: np.dtype) -> tuple[Array, int]:
        """The memory as one row of elements, and how many elements a row of it has."""
        typed = self.typed(dtype)
        return typed.reshape(-1), typed.shape[1]

    # ---- addresses

    def check(self, s: State, offsets: Array, width: int, aligned: bool) -> None:
        """Bytes [offset, offset + width) must be inside, and aligned to their width if that is required.

        `offsets` are of active threads only, [rows] or [rows, ...] as `rows_of` gives them.
        """
        if offsets.size == 0:
            return
        if int(offsets.min()) < 0 or int(offsets.max()) + width > self.size:
            bad = (offsets < 0) | (offsets + width > self.size)
            first, row = _first(s, offsets, bad)
            s.fail(
                OutOfBounds,
                f"access of {self.name} must be inside its {self.size} bytes, not at bytes {first} to {first + width}",
                "predicate the access, or make the memory larger",
                row,
            )
        if aligned and (offsets % width).any():
            first, row = _first(s, offsets, offsets % width != 0)
            s.fail(
                Misaligned,
                f"address of {width} bytes at once of {self.name} must be a multiple of {width}, not {first}",
                "pad rows to a multiple of the vector, or use narrower vectors",
                row,
            )

    def granules(self, s: State, offsets: Array, width: int, rows: Array) -> Array:
        """Which granules, counted over all rows, are touched: the shape of `offsets` and an axis for wider accesses."""
        start = offsets // self.granule
        if width > self.granule:
            start = start[..., None] + np.arange(width // self.granule)
        per_row = self.data.shape[1] // self.granule
        if self.scope == "shared":
            first = s.batch.block[rows] * per_row
        elif self.scope == "local":
            first = rows * per_row
        else:
            return start
        found: Array = start + first.reshape(first.shape + (1,) * (start.ndim - 1))
        return found

    def row_of(self, s: State, rows: Array) -> Array | int:
        """Which row of `data` each of these threads sees."""
        if self.scope == "shared":
            return s.batch.block[rows]
        return rows if self.scope == "local" else 0

    # ---- bytes, for instructions that move many at once

    def read_bytes(self, s: State, offsets: Array, width: int, rows: Array) -> Array:
        """`width` bytes at each offset, [rows, ..., width], after all checks but alignment."""
        self.check(s, offsets, width, aligned=False)
        self.note_read(s, offsets, width, rows)
        at = offsets[..., None] + np.arange(width)
        row = self.row_of(s, rows)
        if not isinstance(row, int):
            row = row.reshape(row.shape + (1,) * (at.ndim - 1))
        found: Array = self.data[row, at]
        return found

    def write_bytes(self, s: State, offsets: Array, values: Array, rows: Array) -> None:
        """The inverse of `read_bytes`; values are uint8 [rows, ..., width]."""
        width = values.shape[-1]
        self.check(s, offsets, width, aligned=False)
        self.put_bytes(s, offsets, values, rows)

    def put_bytes(self, s: State, offsets: Array, values: Array, rows: Array, landing: bool = False) -> None:
        """Write without a check of bounds; `landing` when an asynchronous copy arrives, whose start was checked."""
        width = values.shape[-1]
        at = offsets[..., None] + np.arange(width)
        row = self.row_of(s, rows)
        if not isinstance(row, int):
            row = row.reshape(row.shape + (1,) * (at.ndim - 1))
        granules = self.granules(s, offsets, width, rows)
        if self.tracker is not None and not landing:
            new = (self.data[row, at] != values).reshape(*granules.shape, -1).any(axis=-1)
            self.tracker.written(s, granules, rows, new)
        self.data[row, at] = values
        if self.tracker is not None:
            self.agree(s, self.data[row, at] == values, rows)
        if landing and self.tracker is not None:
            self.tracker.landed(s, granules, rows)
        if self.initialised is not None:
            self.initialised.reshape(-1)[granules] = True

    def agree(self, s: State, same: Array, rows: Array) -> None:
        """After one statement has written: every thread must find its own value."""
        if not same.all():
            row = int(rows[np.unravel_index(int(np.argmin(same)), same.shape)[0]])
            s.fail(
                Race,
                f"an element of {self.name} must be written by one thread, "
                "not with different values by several threads in one statement",
                "give each thread its own element, or add atomically",
                row,
            )

    def note_read(self, s: State, offsets: Array, width: int, rows: Array) -> None:
        """Check that these bytes are written and that nobody else is writing them."""
        if self.tracker is not None:
            self.tracker.read(s, self.granules(s, offsets, width, rows), rows)
        elif self.initialised is not None:
            known = self.initialised.reshape(-1)[self.granules(s, offsets, width, rows)]
            if not known.all():
                poison = np.zeros(s.batch.size, dtype=np.bool_)
                poison[rows] = ~known.reshape(len(rows), -1).all(axis=1)
                s.add_poison(poison)


@dataclass(frozen=True)
class Pointer:
    """An address: bytes from the start of a memory, one number for all threads or one for each."""

    memory: Memory
    offset: Array

    def moved(self, offset: Array) -> Pointer:
        return Pointer(self.memory, self.offset + offset)


class SharedWindow:
    """Where the shared memories of a block lie, so that their addresses may be computed with as integers."""

    FIRST = 1024

    def __init__(self) -> None:
        self.memories: list[Memory] = []
        self.end = self.FIRST

    def place(self, memory: Memory) -> None:
        memory.address = self.end
        self.end += -(-memory.data.shape[1] // ALIGNMENT) * ALIGNMENT + ALIGNMENT  # a gap, so that overruns are seen
        self.memories.append(memory)

    def pointer(self, s: State, address: Array) -> Pointer:
        """The pointer that an integer shared address is. Raises InvalidOperand where it is none."""
        active = np.broadcast_to(address, (s.batch.size,))[s.active()].astype(np.int64)
        if active.size:
            for memory in self.memories:
                if memory.address <= int(active[0]) < memory.address + memory.data.shape[1] + ALIGNMENT:
                    return Pointer(memory, np.asarray(address, dtype=np.int64) - memory.address)
        s.fail(
            InvalidOperand,
            f"shared address must be inside shared memory, not {active[:1].tolist()}",
            "compute it from the address of a shared buffer",
        )


def _first(s: State, offsets: Array, bad: Array) -> tuple[int, int]:
    """The first bad offset and the row of its thread."""
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    rows = np.flatnonzero(s.active())
    return int(offsets[index]), int(rows[index[0] if len(rows) > 1 or offsets.shape[0] == len(rows) else 0])
