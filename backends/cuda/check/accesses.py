"""Loads and stores of typed elements by all active threads at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from .memory import Memory
from .state import State
from .threads import Array
from .traffic import Site
from .violations import Uninitialised

Index = Array  # of elements: () the same for all threads, [threads], or [1 or threads, lanes]


def load(s: State, memory: Memory, dtype: np.dtype, index: Index, vector: int, site: Site) -> Array:
    """The elements at `index`: [threads] or [threads, lanes], zero for inactive threads.

    `vector` is how many lanes are loaded at once, at an address that must be aligned to them: all of them, or 1.
    """
    if memory.scope == "local" and (index.ndim == 0 or index.shape[0] == 1):
        return _load_register(s, memory, dtype, index)
    rows, active = _active(s, index)
    offsets = _offsets(active, dtype, vector)
    width = dtype.itemsize * vector
    memory.check(s, offsets, width, aligned=True)
    memory.note_read(s, offsets, width, rows)
    site.record(s, memory, offsets, width, rows)
    flat, per_row = memory.flat(dtype)
    found: Array = flat[active + _row_start(s, memory, rows, per_row, active.ndim)]
    if s.mask is None:
        return found
    out = np.zeros((s.batch.size, *found.shape[1:]), dtype=dtype)
    out[rows] = found
    return out


def store(s: State, memory: Memory, dtype: np.dtype, index: Index, value: Array, vector: int, site: Site) -> None:
    """Write `value`, [threads or 1] or [threads or 1, lanes], at `index`; lanes at once as in `load`."""
    if memory.scope == "local" and (index.ndim == 0 or index.shape[0] == 1):
        _store_register(s, memory, dtype, index, value)
        return
    if memory.scope != "local":
        refuse_poison(s, f"the value stored to {memory.name}")
    rows, active = _active(s, index)
    if len(rows) == 0:
        return
    offsets = _offsets(active, dtype, vector)
    width = dtype.itemsize * vector
    memory.check(s, offsets, width, aligned=True)
    site.record(s, memory, offsets, width, rows)
    flat, per_row = memory.flat(dtype)
    at = active + _row_start(s, memory, rows, per_row, active.ndim)
    values = np.broadcast_to(value if value.ndim else value[None], (s.batch.size, *active.shape[1:]))
    values = np.ascontiguousarray(values[rows] if s.mask is not None else values, dtype=dtype)
    granules = memory.granules(s, offsets, width, rows)
    bits = np.dtype(f"u{dtype.itemsize}")
    if memory.tracker is None:
        flat[at] = values
        assert memory.initialised is not None
        known = np.ones(len(rows), dtype=np.bool_) if s.poison is None else ~s.poison[rows]
        memory.initialised.reshape(-1)[granules] = known.reshape(known.shape + (1,) * (granules.ndim - 1))
        return
    pieces = flat.view(bits)
    new = pieces[at] != values.view(bits)
    memory.tracker.written(s, granules, rows, _by_granule(new, granules))
    flat[at] = values
    memory.agree(s, pieces[at] == values.view(bits), rows)


def refuse_poison(s: State, what: str) -> None:
    """Report that `what`, which matters, depends on a register that nothing has written."""
    if s.poison is None:
        return
    row = int(np.argmax(s.poison))
    s.poison = None
    s.fail(
        Uninitialised,
        f"{what} must depend on registers that were written, not on one that was not",
        "initialise the register in every thread that uses it",
        row,
    )


def _load_register(s: State, memory: Memory, dtype: np.dtype, index: Index) -> Array:
    """From registers that are the same for all threads: columns of the memory."""
    columns, first, width = _columns(s, memory, dtype, index)
    if (first, width) not in memory.complete:
        assert memory.initialised is not None
        span = slice(first // memory.granule, (first + width) // memory.granule)
        missing = ~np.asarray(memory.initialised[:, span].all(axis=1))
        s.add_poison(missing)
    found: Array = memory.typed(dtype)[:, columns].copy()
    return found[:, 0] if index.ndim == 0 else found


def _store_register(s: State, memory: Memory, dtype: np.dtype, index: Index, value: Array) -> None:
    columns, first, width = _columns(s, memory, dtype, index)
    target = memory.typed(dtype)[:, columns]
    shaped = value[:, None] if value.ndim == 1 else value
    mask = None if s.mask is None else s.mask[:, None]
    if not isinstance(columns, slice):
        memory.typed(dtype)[:, columns] = np.where(s.active()[:, None], shaped, target)
    else:
        np.copyto(target, shaped, where=True if mask is None else mask)
    assert memory.initialised is not None
    span = slice(first // memory.granule, (first + width) // memory.granule)
    if s.mask is None and s.poison is None:
        if (first, width) not in memory.complete:
            memory.initialised[:, span] = True
            memory.complete.add((first, width))
        return
    known = s.active() if s.poison is None else s.active() & ~s.poison
    memory.initialised[known, span] = True
    if s.poison is not None:
        memory.initialised[s.active() & s.poison, span] = False
        memory.complete.clear()


def _columns(s: State, memory: Memory, dtype: np.dtype, index: Index) -> tuple[Any, int, int]:
    """Columns of local memory: as an index, the first byte and the bytes from the first to the last."""
    if index.ndim == 0:
        low = high = int(index)
    else:
        low, high = int(index.min()), int(index.max())
    first, width = low * dtype.itemsize, (high - low + 1) * dtype.itemsize
    if first < 0 or first + width > memory.size:
        rows = np.flatnonzero(s.active())
        memory.check(s, np.full(len(rows), first if first < 0 else first + width - 1), 1, aligned=False)
    if index.ndim == 0:
        return slice(low, low + 1), first, width
    lanes = index.reshape(-1)
    straight = len(lanes) == high - low + 1 and bool((np.diff(lanes) == 1).all())
    return (slice(low, high + 1) if straight else lanes), first, width


def _active(s: State, index: Index) -> tuple[Array, Array]:
    """Active threads' rows, and the index of each of them."""
    if s.mask is None:
        rows = s.batch.row
        if index.ndim and index.shape[0] == len(rows):
            return rows, index.astype(np.int64)
    else:
        rows = np.flatnonzero(s.mask)
        if index.ndim and index.shape[0] == s.batch.size:
            return rows, index[rows].astype(np.int64)
    lanes = index.shape[1:] if index.ndim else ()
    return rows, np.broadcast_to(index, (len(rows), *lanes)).astype(np.int64)


def _offsets(index: Array, dtype: np.dtype, vector: int) -> Array:
    """Bytes of each access: of the first lane where all lanes are accessed at once."""
    return (index[:, 0] if vector > 1 else index) * dtype.itemsize


def _row_start(s: State, memory: Memory, rows: Array, per_row: int, axes: int) -> Any:
    row = memory.row_of(s, rows)
    if isinstance(row, int):
        return 0
    return (row * per_row).reshape(row.shape + (1,) * (axes - 1))


def _by_granule(new: Array, granules: Array) -> Array:
    """Whether elements changed, for each granule; they are elements of one granule, or the granules of one element."""
    if new.shape == granules.shape:
        return new
    if new.size == granules.size:
        return new.reshape(granules.shape)
    if new.size < granules.size:
        return np.repeat(new.reshape(-1), granules.size // new.size).reshape(granules.shape)
    return np.asarray(new.reshape(*granules.shape, -1).any(axis=-1))
