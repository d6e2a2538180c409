"""Copies whose source and destination are contiguous along different dimensions: square blocks turned in
registers."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as B

from .base import Access, Expr
from .loops import Axis, nest, offset_of
from .vmath import hold

_SMALLEST = 4  # a block with a shorter side is not worth turning


def block_of(axes: Sequence[Axis], lanes: int) -> int:
    """The side of the blocks in which a copy (strides: destination, source) is turned; 0 if it should not
    be."""
    written = [axis for axis in axes if axis.strides[0] == 1 and axis.strides[1] != 1]
    read = [axis for axis in axes if axis.strides[1] == 1 and axis.strides[0] != 1]
    if not written or not read:
        return 0
    side = min(lanes, *(1 << (axis.size.bit_length() - 1) for axis in (written[0], read[0])))
    return side if side >= _SMALLEST else 0


def emit_transpose(axes: Sequence[Axis], x: Access, y: Access, side: int, threads: int) -> None:
    """Copy x to y in blocks of `side` x `side`; the last block of a row is moved back over its neighbour."""
    written = next(axis for axis in axes if axis.strides[0] == 1 and axis.strides[1] != 1)
    read = next(axis for axis in axes if axis.strides[1] == 1 and axis.strides[0] != 1)
    outer = [axis for axis in axes if axis is not written and axis is not read]
    steps = [Axis(-(-axis.size // side), ()) for axis in (read, written)]
    with nest([*outer, *steps], threads) as (*where, i, j):
        row, column = (B.bind(B.min(n * side, a.size - side)) for n, a in ((i, read), (j, written)))
        start_y, start_x = (
            B.bind(offset_of(where, outer, k) + row * read.strides[k] + column * written.strides[k]) for k in (0, 1)
        )
        block = [x.load(start_x + n * written.strides[1], side) for n in range(side)]
        for n, vector in enumerate(transposed([hold(vector) for vector in block], side)):
            y.store(start_y + n * read.strides[0], vector, side)


def transposed(rows: list[Expr], side: int) -> list[Expr]:
    """A square block turned: vector i of the result holds lane i of each of `rows`."""
    step = side // 2
    while step:
        # swap the off-diagonal quarters of every 2 step x 2 step block
        low = [lane if not lane & step else side + lane - step for lane in range(side)]
        high = [lane + step if not lane & step else side + lane for lane in range(side)]
        for n in range(side):
            if not n & step:
                pair = [rows[n], rows[n + step]]
                rows[n], rows[n + step] = (hold(tirx.Shuffle(pair, lanes)) for lanes in (low, high))
        step //= 2
    return rows
