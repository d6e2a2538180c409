"""The register tile that every matrix product is made of: a few rows times a few vectors, summed over depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tvm.tirx.script import builder as B

from .base import Expr, Registers, broadcast

_UNROLL = 4  # depth steps a loop iteration: enough to hide the loop, few enough for the micro-op cache
CHUNK = 256  # depth steps summed on their own
LONGEST = CHUNK * 3 // 2  # depth steps that need no chunks


def zeros(rows: int, vectors: int, lanes: int) -> Registers:
    """A tile of accumulators set to 0; row `i`, vector `j` is slot `i * vectors + j`."""
    tile = Registers(rows * vectors, lanes)
    for slot in range(rows * vectors):
        tile[slot] = broadcast(B.float32(0), lanes)
    return tile


def pack_steps(weight: torch.Tensor, step: int) -> torch.Tensor:
    """Reorder weights [..., width, k] into steps [..., ceil(k / step), width, step], zeros where k ends."""
    *outer, width, k = weight.shape
    steps = -(-k // step)
    padded = weight.new_zeros(*outer, width, steps * step)
    padded[..., :k] = weight
    return padded.reshape(*outer, width, steps, step).transpose(-3, -2).contiguous()


def accumulate(
    tile: Registers,
    rows: int,
    vectors: int,
    depth: int | Expr,
    left: Callable[[int, Expr], Expr],
    right: Callable[[int, Expr], Expr],
    meanwhile: Callable[[Expr], None] | None = None,
    most: int | None = None,
) -> None:
    """Add the sum over `k < depth` of `left(i, k) * right(j, k)` to slot `i * vectors + j` of `tile`.

    `left` gives a scalar, `right` a vector. `depth` may be an expression, bounded by `most`. Deep sums are made in
    chunks, because the rounding error of one long running sum grows with its length. `meanwhile(b)` is emitted before
    each four depth steps from `4 * b` on.
    """

    def add(start: Expr, length: int | Expr) -> None:
        _add(tile, rows, vectors, start, length, left, right, meanwhile)

    most = depth if isinstance(depth, int) else most
    if most is not None and most <= LONGEST:
        add(B.int32(0), depth)
        return
    chunks = Chunks(tile, rows * vectors)
    with B.serial(depth // CHUNK) as index:
        add(B.bind(index * CHUNK), CHUNK)
        chunks.close()
    rest = depth % CHUNK
    if not isinstance(rest, int) or rest:
        add(depth - rest if isinstance(rest, int) else B.bind(depth - rest), rest)
        chunks.close()
    chunks.finish()


class Chunks:
    """Totals of the sums in `count` slots of a tile, for long sums that are made of sums of chunks.

    The tile's values are taken as the first totals, and it becomes zero.
    """

    def __init__(self, tile: Registers, count: int) -> None:
        self._tile, self._count = tile, count
        self._totals = Registers(count, tile.lanes)
        for slot in range(count):
            self._totals[slot] = tile[slot]
        self._clear()

    def split(self, rounds: int, pieces: int, body: Callable[[Expr, Expr], None]) -> None:
        """Run `body(first, count)` on `pieces` equal runs of `rounds` (the last may be shorter), each a chunk."""
        length = -(-rounds // pieces)
        with B.serial(-(-rounds // length)) as piece:
            first = B.bind(piece * length)
            body(first, length if rounds % length == 0 else B.min(length, rounds - first))
            self.close()

    def close(self) -> None:
        """Add the sums of a chunk to the totals and start the next chunk at zero."""
        for slot in range(self._count):
            self._totals[slot] = self._totals[slot] + self._tile[slot]
        self._clear()

    def finish(self) -> None:
        """Give the tile the totals."""
        for slot in range(self._count):
            self._tile[slot] = self._totals[slot]

    def _clear(self) -> None:
        for slot in range(self._count):
            self._tile[slot] = broadcast(B.float32(0), self._tile.lanes)


def _add(
    tile: Registers,
    rows: int,
    vectors: int,
    start: Expr,
    length: int | Expr,
    left: Callable[[int, Expr], Expr],
    right: Callable[[int, Expr], Expr],
    meanwhile: Callable[[Expr], None] | None,
) -> None:
    def step(k: Expr) -> None:
        columns = [B.bind(right(j, k)) for j in range(vectors)]
        for i in range(rows):
            value = broadcast(B.bind(left(i, k)), tile.lanes)
            for j in range(vectors):
                slot = i * vectors + j
                tile[slot] = tile[slot] + value * columns[j]

    whole = length // _UNROLL
    rest = 0
    if not isinstance(length, int) or whole > 2:
        with B.serial(whole) as block:
            if meanwhile is not None:
                meanwhile(start // _UNROLL + block)
            for u in range(_UNROLL):
                step(B.bind(start + (block * _UNROLL + u)))
        rest = whole * _UNROLL
    if not isinstance(length, int):
        with B.serial(length - rest) as k:
            step(B.bind(start + (rest + k)))
        return
    for k in range(rest, length):
        step(start + k)


def tiles(total: int, size: int, body: Callable[[Expr, int], None], limit: Expr | None = None) -> None:
    """Run `body(first, rows)` over `total` rows in tiles of `size`; the last tile may have fewer rows.

    With `limit`, tiles that start at or beyond that row are left out.
    """
    whole, tail = divmod(total, size)
    if whole:
        count = whole if limit is None else B.min(B.int32(whole), (limit + (size - 1)) // size)
        with B.serial(count) as tile:
            body(B.bind(tile * size), size)
    if not tail:
        return
    if limit is None:
        body(B.int32(whole * size), tail)
        return
    with B.If(limit > whole * size):
        with B.Then():
            body(B.int32(whole * size), tail)


_PARALLEL_FLOPS = 60_000  # less work than this is done sooner than other cores are woken


def tasks(count: int, flops: int) -> Any:
    """The loop over independent tasks: parallel when all their `flops` together are worth waking the other cores."""
    return B.parallel(count) if count > 1 and flops >= _PARALLEL_FLOPS else B.serial(count)


def tile_cycles(rows: int, vectors: int) -> float:
    """Cycles for one depth step of a register tile on a core with two multiply-add and two load ports.

    The multiply-adds, their latency of four, or the loads (which never pair perfectly) bound it; on top, bringing the
    weights from L2 costs about half a cycle a vector.
    """
    return max(rows * vectors / 2, 4.0, 1.25 * (rows + vectors) / 2) + vectors / 2


def fits(rows: int, vectors: int, registers: int) -> bool:
    """Whether the tile, one column of weights and one broadcast value are held in registers."""
    return rows * vectors + vectors + 1 <= registers


def rows_cycles(total: int, rows: int, vectors: int) -> float:
    """Cycles of one depth step over `total` rows in tiles of `rows`."""
    whole, tail = divmod(total, rows)
    return whole * tile_cycles(rows, vectors) + (tile_cycles(tail, vectors) if tail else 0.0)


def best_rows(total: int, vectors: int, registers: int) -> int:
    """The tile height that covers `total` rows in the fewest cycles; the higher of equals."""
    most = max(rows for rows in range(1, registers) if rows == 1 or fits(rows, vectors, registers))
    return min(range(1, min(most, total) + 1), key=lambda rows: (rows_cycles(total, rows, vectors), -rows))


def either(condition: Expr, first: int, second: int, body: Callable[[int], None]) -> None:
    """Run `body` on `first` where the condition holds, else on `second`; one body when they are equal."""
    if first == second:
        body(first)
        return
    with B.If(condition):
        with B.Then():
            body(first)
        with B.Else():
            body(second)


def part(index: Expr, total: int, size: int, body: Callable[[int], None]) -> None:
    """Run `body` on the length of part `index` of `total` cut into parts of `size`; the last may be shorter."""
    parts = -(-total // size)
    last = total - (parts - 1) * size
    either(index < parts - 1, size if parts > 1 else last, last, body)


def counts(columns: int, lanes: int) -> list[int | None]:
    """For each vector that covers `columns` columns how many lanes are valid; None means all."""
    return [None if at + lanes <= columns else columns - at for at in range(0, columns, lanes)]
