"""Tiles of factors in shared memory: copied there in the background, read from there by the matrix units.

A tile's rows are cut into chunks of 16 bytes, what one row of an 8x8 matrix of `ldmatrix` has. Where a chunk lies in
its row is swizzled by the row, so that eight rows of one column of chunks lie in different banks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as B

from ...tvm.kernels.base import Expr
from .base import ACCESS, Memory, Place, when
from .epilogue import item_size
from .sources import Chunk, Source

_ROW_OF_BANKS = 128  # bytes


@dataclass(frozen=True)
class Tile:
    """`rows` rows of `columns` elements in shared memory."""

    rows: int
    columns: int
    dtype: str

    @property
    def step(self) -> int:
        """Elements of a chunk."""
        return ACCESS // item_size(self.dtype)

    @property
    def chunks(self) -> int:
        """Chunks in the tile."""
        return self.rows * self.columns // self.step

    def chunk(self, row: Expr, column: Expr) -> Expr:
        """Where chunk number `column` of a row lies, counted in chunks from the tile's first."""
        columns = self.columns // self.step
        rows_of_banks = max(_ROW_OF_BANKS // (columns * ACCESS), 1)
        return row * columns + (column ^ (row // rows_of_banks % min(columns, 8)))


class Copier:
    """Copies a tile of a source, all threads of a block together, `chunk` elements at a time.

    Rows are powers of 2, and so are columns: threads share them evenly, or some have none.
    """

    def __init__(self, tile: Tile, chunk: int, threads: int, at: Place) -> None:
        self._tile, self._chunk = tile, chunk
        across, together = tile.columns // chunk, threads // (tile.columns // chunk)
        self._takes_part = True if tile.rows >= together else at.thread < tile.rows * across
        self._column = B.bind(at.thread % across)
        self._rows = [B.bind(at.thread // across + i * together) for i in range(-(-tile.rows // together))]

    def chunks(self, source: Source, start: Expr, first_row: Expr, count: int, depth: int) -> Chunk:
        """The chunks of the tile's rows, the first of which is row `first_row` of `count` of the source."""
        return source.chunks(start, [first_row + row for row in self._rows], count, depth, self._chunk)

    def copy(self, source: Memory, chunks: Chunk, k: Expr, shared: Memory, start: Expr) -> None:
        """Begin to copy the slice of depth that begins at `k` to the tile at chunk `start` of the shared memory."""
        when(self._takes_part, lambda: self._copy(source, chunks, k, shared, start))

    def _copy(self, source: Memory, chunks: Chunk, k: Expr, shared: Memory, start: Expr) -> None:
        depth = B.bind(k + self._column * self._chunk)
        parts = self._tile.step // self._chunk
        for number, row in enumerate(self._rows):
            index, exist = chunks(number, depth)
            to = (start + self._tile.chunk(row, self._column // parts)) * self._tile.step
            to = to + self._column % parts * self._chunk
            _copy(source, index, exist, shared, to, self._chunk)


def _copy(source: Memory, index: Expr, exist: Expr, shared: Memory, to: Expr, chunk: int) -> None:
    """Copy the elements that exist, and zeros for the others; in the background where chunks are wide enough."""
    size = item_size(source.dtype)
    exist = B.bind(exist)
    if chunk * size >= 4:
        kind = "cg" if chunk * size == ACCESS else "ca"
        B.evaluate(
            B.ptx[f"cp.async.{kind}.shared.global"](
                shared.address(to),
                source.address(tirx.Select(exist > 0, index, 0)),
                chunk * size,
                B.cast(exist * size, "uint32"),
            )
        )
        return
    for i in range(chunk):
        with B.If(exist > i):
            with B.Then():
                shared[to + i] = source[index + i]
            with B.Else():
                shared[to + i] = tirx.const(0, shared.dtype)


def commit() -> None:
    """End a group of copies."""
    B.evaluate(B.ptx["cp.async.commit_group"]())


def wait(groups: int) -> None:
    """Wait until all but the last `groups` groups of the thread's copies are done."""
    B.evaluate(B.ptx["cp.async.wait_group"](groups))


def load_matrices(words: Memory, first: int, shared: Memory, index: Expr, transposed: bool = False) -> None:
    """Read four 8x8 matrices of 16-bit elements (or as many bytes) into words `first` to `first + 3`.

    `index` is, for lane l, the element where row l % 8 of matrix l // 8 begins. Of each matrix a lane gets elements
    2 (l % 4) and the next of row l // 4, or of column l // 4 when `transposed`.
    """
    kind = ".trans" if transposed else ""
    B.evaluate(
        B.ptx[f"ldmatrix.sync.aligned.m8n8.x4{kind}.shared.b16"](
            *(words[first + i] for i in range(4)), shared.address(index)
        )
    )


# dtype -> (shape, types of the result, the factors and what is added) of a product of 32 bytes of depth
PRODUCTS = {
    "float16": "m16n8k16.row.col.f32.f16.f16.f32",
    "bfloat16": "m16n8k16.row.col.f32.bf16.bf16.f32",
    "tf32": "m16n8k8.row.col.f32.tf32.tf32.f32",
    "int8": "m16n8k32.row.col.s32.s8.s8.s32",
}
SUMS = {  # int32 by its bits
    "float32": "float32", "float16": "float32", "bfloat16": "float32", "tf32": "float32", "int8": "uint32",
}  # fmt: skip
DEPTH_BYTES = 32


def multiply(dtype: str, sums: Memory, slot: int, a: Sequence[Expr], b: Sequence[Expr]) -> None:
    """Add the product of a 16-row and an 8-column fragment to the four sums from `slot` on.

    Of the 16x8 sums a lane l has row l // 4 and columns 2 (l % 4) and the next in the first two, row l // 4 + 8 in the
    others.
    """
    total = [sums[slot + i] for i in range(4)]
    B.evaluate(B.ptx[f"mma.sync.aligned.{PRODUCTS[dtype]}"](*total, *a, *b, *total))


def round_to_tf32(words: Memory, count: int) -> None:
    """Round float32 bit patterns to what tf32 holds, halves away from zero: the matrix units ignore the bits below."""
    for i in range(count):
        exponent = words[i] & tirx.const(0x7F800000, "uint32")
        finite = B.NE(exponent, tirx.const(0x7F800000, "uint32"))
        words[i] = words[i] + tirx.Select(finite, tirx.const(0x1000, "uint32"), tirx.const(0, "uint32"))
