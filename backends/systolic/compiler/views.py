"""Values in DRAM while a program is compiled: views of buffers, and how view ops act on them at no cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]


@dataclass(eq=False)
class Buffer:
    """DRAM of `words` words of C bytes. Its address, in words, is known once all buffers are."""

    name: str
    words: int
    address: int = -1


@dataclass(frozen=True, eq=False)
class View:
    """A tensor in a buffer: the byte of element (i0, i1, ...) is `offset` + the sum of tables[d][i_d]."""

    buffer: Buffer
    offset: int
    tables: tuple[Table, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(len(table) for table in self.tables)

    @property
    def start(self) -> int:
        """The byte of the first element."""
        return self.offset + sum(int(table[0]) for table in self.tables)

    def permute(self, dims: Sequence[int]) -> View:
        """Dimensions in another order."""
        return replace(self, tables=tuple(self.tables[d] for d in dims))

    def slice(self, dim: int, start: int, length: int, step: int = 1) -> View:
        """`length` elements of `dim` from `start`, `step` apart."""
        table = self.tables[dim][start : start + (length - 1) * step + 1 : step]
        return self._with(dim, table)

    def select(self, dim: int, index: int) -> View:
        """One element of `dim`, which goes away."""
        tables = self.tables[:dim] + self.tables[dim + 1 :]
        return replace(self, offset=self.offset + int(self.tables[dim][index]), tables=tables)

    def expand(self, shape: Sequence[int]) -> View:
        """Broadcast to `shape`: dims of 1 repeat, others come in front."""
        extra = len(shape) - len(self.tables)
        tables = [np.zeros(size, np.int64) for size in shape[:extra]]
        for table, size in zip(self.tables, shape[extra:], strict=True):
            tables.append(table if len(table) == size else np.full(size, table[0]))
        return replace(self, tables=tuple(tables))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The same elements in row-major order under another shape, or None when only a copy could do that."""
        tables: list[Table] = []
        offset = self.offset
        for old, new in _groups(self.shape, tuple(shape)):
            joined = _join([self.tables[d] for d in old])
            offset += int(joined[0])
            pieces = _cut(joined - joined[0], [shape[d] for d in new])
            if pieces is None:
                return None
            tables += pieces
        return replace(self, offset=offset, tables=tuple(tables))

    def _with(self, dim: int, table: Table) -> View:
        return replace(self, tables=(*self.tables[:dim], table, *self.tables[dim + 1 :]))


def dense(buffer: Buffer, shape: Sequence[int], lanes: int, table: Table, columns: int) -> View:
    """A value of `shape` at the buffer's start, pixels row-major, with `table` for the dim `lanes` of a pixel."""
    return View(buffer, 0, dense_tables(shape, lanes, table, columns))


def dense_tables(shape: Sequence[int], lanes: int, table: Table, columns: int) -> tuple[Table, ...]:
    """Tables of a value whose pixels lie row-major, each a whole number of words that hold the dim `lanes`."""
    step = words_of(table, columns) * columns
    tables: list[Table] = []
    for dim in reversed(range(len(shape))):
        if dim == lanes:
            tables.append(table)
            continue
        tables.append(np.arange(shape[dim], dtype=np.int64) * step)
        step *= shape[dim]
    return tuple(reversed(tables))


def words_of(table: Table, columns: int) -> int:
    """How many words the bytes of `table` reach over."""
    return int(table.max()) // columns + 1


@dataclass(frozen=True)
class Axis:
    """A run of pixels: how many, and the DRAM words from one to the next."""

    count: int
    stride: int


@dataclass(frozen=True, eq=False)
class Operand:
    """A view as the array reads it: axes of pixels, and in each pixel words of channels.

    Pixel (i, j, ...) starts at word `base` + i*axes[0].stride + ... of the buffer; its channels are in the words
    `words` (ascending) from there. Channel c, row-major over the channel dims, is byte places[c] of those words.
    """

    buffer: Buffer
    base: int
    axes: tuple[Axis, ...]
    words: Table
    places: Table

    @property
    def channels(self) -> int:
        """How many channels a pixel has."""
        return len(self.places)

    @property
    def whole(self) -> bool:
        """Whether a pixel's words follow one another."""
        return int(self.words[-1]) == len(self.words) - 1


def operand(view: View, channel_dims: Sequence[int], columns: int) -> Operand | str:
    """The view with these dims as channels and all others as pixels, or why the array cannot read it so."""
    axes: list[Axis] = []
    offset = view.offset
    for dim, table in enumerate(view.tables):
        if dim in channel_dims:
            continue
        stride = int(table[1] - table[0]) if len(table) > 1 else 0
        if stride % columns:
            return f"elements of dim {dim} do not lie in words of {columns} bytes of their own"
        if not np.array_equal(table, table[0] + stride * np.arange(len(table))):
            return f"dim {dim} has no constant step in memory"
        offset += int(table[0])
        axes.append(Axis(len(table), stride // columns))
    channels = _join([view.tables[d] for d in channel_dims]) + offset
    base = int(channels.min()) // columns
    channels = channels - base * columns
    words, index = np.unique(channels // columns, return_inverse=True)
    return Operand(view.buffer, base, tuple(axes), words, index * columns + channels % columns)


def channel_dims(view: View, columns: int) -> list[int]:
    """The dims whose elements do not lie in words of their own; the last dim when there are none."""
    found = [d for d, table in enumerate(view.tables) if ((table - table[0]) % columns).any()]
    return found or [len(view.tables) - 1] * bool(view.tables)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of old dims and of new dims with equal numbers of elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        a, b = math.prod(old[d] for d in left), math.prod(new[d] for d in right)
        i, j = i + len(left), j + len(right)
        while a != b:
            if a < b:
                left.append(i)
                a, i = a * old[i], i + 1
            else:
                right.append(j)
                b, j = b * new[j], j + 1
        groups.append((left, right))
    return groups


def _join(tables: Sequence[Table]) -> Table:
    joined = np.zeros(1, np.int64)
    for table in tables:
        joined = (joined[:, None] + table).reshape(-1)
    return joined


def _cut(table: Table, sizes: Sequence[int]) -> list[Table] | None:
    """Tables of these sizes whose sums, row-major, are `table`, which starts with 0; None when there are none."""
    pieces: list[Table] = []
    for size in reversed(sizes):
        rows = table.reshape(-1, size)
        inner = rows[0]
        if not np.array_equal(rows, rows[:, :1] + inner):
            return None
        pieces.append(inner)
        table = rows[:, 0]
    pieces.reverse()
    return pieces
