"""Matrix products: y = activation(a @ b.T + bias + residual), and convolutions as such products.

Blocks of threads compute blocks of y. Slices of both factors are copied to shared memory in the background, several
ahead of the one that is multiplied. Products are m16n8 of 32 bytes of depth, whatever the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script import builder as B

from ...tvm.kernels.base import Expr, Operand
from ..architectures import WARP, Architecture
from .base import ACCESS, CudaKernel, Launch, Memory, Place, barrier, dynamic_shared, every, local, when
from .epilogue import Epilogue, Matrices, item_size
from .sources import ImageSource, MatrixSource
from .tiles import DEPTH_BYTES, SUMS, Copier, Tile, commit, load_matrices, multiply, round_to_tf32, wait

_TOGETHER = 8  # rows of blocks whose blocks run together, so that they find factors in the L2 cache


@dataclass(frozen=True)
class Blocking:
    """Rows and columns of y a block and a warp of it computes, bytes of depth a slice has, slices in shared memory."""

    block: tuple[int, int]
    warp: tuple[int, int]
    depth: int = 64
    slices: int = 4

    @property
    def warps(self) -> tuple[int, int]:
        """Warps down and across a block."""
        return self.block[0] // self.warp[0], self.block[1] // self.warp[1]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return math.prod(self.warps) * WARP


# From large to small; smaller blocks share the work of small products among more multiprocessors.
BLOCKINGS = (
    Blocking((128, 128), (64, 32)),
    Blocking((128, 64), (64, 32)),
    Blocking((64, 64), (32, 32)),
    Blocking((32, 64), (16, 32)),
    Blocking((16, 64), (16, 16)),
)


@dataclass(frozen=True)
class Gemm(CudaKernel):
    """y[m, n] = epilogue(sum over k of a[m, k] * b[n, k]) for a batch of matrices.

    `a` has rows of `k` dense elements, or is an image. So has `b`, or, `by_rows`, it has `k` rows of `n` dense
    elements. `a_chunk` and `b_chunk` elements are copied at a time: that many divide the addresses of all rows.
    `dtype` is what is multiplied: float16, bfloat16, tf32 (float32 in memory) or int8; float32 is multiplied lane by
    lane, not by matrix units, and takes no factor `by_rows`.
    """

    name: ClassVar[str] = "gemm"
    m: int
    n: int
    k: int
    dtype: str
    a: Matrices | ImageSource
    b: Matrices
    y: Matrices
    epilogue: Epilogue
    blocking: Blocking
    batch: tuple[int, ...] = ()
    a_chunk: int = 1
    b_chunk: int = 1
    by_rows: bool = False

    def operands(self) -> tuple[Operand, ...]:
        stored = "float32" if self.dtype == "tf32" else self.dtype
        return (Operand("a", stored), Operand("b", stored), *self.epilogue.operands())

    def flops(self) -> int:
        return 2 * math.prod(self.batch) * self.m * self.n * self.k

    def describe(self) -> str:
        block = "x".join(map(str, (*self.blocking.block, self.blocking.depth // item_size(self.dtype))))
        batch = f"{math.prod(self.batch)} x " if self.batch else ""
        kind = "conv" if isinstance(self.a, ImageSource) else self.name
        return f"{kind} {self.dtype} {batch}{self.m}x{self.n}x{self.k} in {block}, {self.epilogue.activation}"

    def launch(self) -> Launch:
        down, across = self._blocks
        shared = self.blocking.slices * (self._a_tile.chunks + self._b_tile.chunks) * ACCESS
        return Launch((down * across * math.prod(self.batch), 1, 1), self.blocking.threads, shared)

    @property
    def _blocks(self) -> tuple[int, int]:
        return -(-self.m // self.blocking.block[0]), -(-self.n // self.blocking.block[1])

    @property
    def _depth(self) -> int:
        """Elements of depth in a slice."""
        return self.blocking.depth // item_size(self.dtype)

    @property
    def _a_tile(self) -> Tile:
        return Tile(self.blocking.block[0], self._depth, self.dtype)

    @property
    def _b_tile(self) -> Tile:
        rows, columns = self.blocking.block[1], self._depth
        return Tile(columns, rows, self.dtype) if self.by_rows else Tile(rows, columns, self.dtype)

    def emit(self, at: Place, *operands: Memory) -> None:
        a, b, *rest = operands
        blocks = math.prod(self._blocks)
        down, across = _grouped(at.block[0] % blocks, *self._blocks)
        first_row, first_column = B.bind(down * self.blocking.block[0]), B.bind(across * self.blocking.block[1])
        position = _positions(at.block[0] // blocks, self.batch)
        tile = self._a_tile.chunks + self._b_tile.chunks
        memory = dynamic_shared(self.blocking.slices * tile * self._a_tile.step, a.dtype)
        copy = self._copier(at, a, b, memory, first_row, first_column, position)
        sums = local(math.prod(self.blocking.warp) // WARP, SUMS[self.dtype])
        for slot in range(math.prod(self.blocking.warp) // WARP):
            sums[slot] = tirx.const(0, sums.dtype)
        slices, ahead = -(-self.k // self._depth), self.blocking.slices - 1
        for number in range(ahead):
            if number < slices:
                copy(B.int32(number * self._depth), B.int32(number * tile))
            commit()
        with B.serial(slices) as number:
            wait(ahead - 1)
            barrier()
            following = B.bind(number + ahead)
            start = B.bind(following % self.blocking.slices * tile)
            when(following < slices, lambda: copy(B.bind(following * self._depth), start))
            commit()
            multiply_slice = self._multiply_lanes if self.dtype == "float32" else self._multiply
            multiply_slice(at, memory, B.bind(number % self.blocking.slices * tile), sums)
        self._store(at, rest, first_row, first_column, position, sums)

    def _copier(
        self, at: Place, a: Memory, b: Memory, memory: Memory, row: Expr, column: Expr, position: Sequence[Expr]
    ) -> Callable[[Expr, Expr], None]:
        """A function that begins to copy both tiles of a slice, given its first depth and where to in shared memory."""
        rows = self.a if isinstance(self.a, ImageSource) else MatrixSource(self.a.row)
        a_start = B.int32(0) if isinstance(self.a, ImageSource) else _offset(position, self.a)
        from_a = Copier(self._a_tile, self.a_chunk, self.blocking.threads, at)
        a_chunks = from_a.chunks(rows, a_start, row, self.m, self.k)
        from_b = Copier(self._b_tile, self.b_chunk, self.blocking.threads, at)
        b_start, columns = _offset(position, self.b), MatrixSource(self.b.row)
        if not self.by_rows:
            b_chunks = from_b.chunks(columns, b_start, column, self.n, self.k)

        def copy(k: Expr, start: Expr) -> None:
            from_a.copy(a, a_chunks, k, memory, start)
            then = start + self._a_tile.chunks
            if self.by_rows:  # rows go down the depth, chunks along the columns of y
                from_b.copy(b, from_b.chunks(columns, b_start, k, self.k, self.n), column, memory, then)
            else:
                from_b.copy(b, b_chunks, k, memory, then)

        return copy

    def _multiply(self, at: Place, memory: Memory, start: Expr, sums: Memory) -> None:
        """Add the product of the slice that begins at chunk `start` of the shared memory, by matrix units."""
        rows, columns = self.blocking.warp
        warp_row, warp_column = self._warp_place(at)
        a_words, b_words = local(rows // 4, "uint32"), local(columns // 4, "uint32")
        low, middle, high = at.lane % 8, at.lane // 8 % 2, at.lane // 16
        b_start, step_elements = start + self._a_tile.chunks, self._a_tile.step
        for step in range(self.blocking.depth // DEPTH_BYTES):
            for i in range(rows // 16):
                row = warp_row + i * 16 + middle * 8 + low
                chunk = start + self._a_tile.chunk(row, step * 2 + high)
                load_matrices(a_words, 4 * i, memory, chunk * step_elements)
            for j in range(columns // 16):
                if self.by_rows:
                    row, column = step * 16 + middle * 8 + low, warp_column // 8 + j * 2 + high
                else:
                    row, column = warp_column + j * 16 + high * 8 + low, step * 2 + middle
                chunk = b_start + self._b_tile.chunk(row, column)
                load_matrices(b_words, 4 * j, memory, chunk * step_elements, self.by_rows)
            if self.dtype == "tf32":
                round_to_tf32(a_words, rows // 4)
                round_to_tf32(b_words, columns // 4)
            for i in range(rows // 16):
                for j in range(columns // 8):
                    slot = (i * (columns // 8) + j) * 4
                    left, right = [a_words[4 * i + w] for w in range(4)], [b_words[2 * j + w] for w in range(2)]
                    multiply(self.dtype, sums, slot, left, right)

    def _multiply_lanes(self, at: Place, memory: Memory, start: Expr, sums: Memory) -> None:
        """The same in float32: each lane adds up the sums that it would hold of matrix units' products."""
        rows, columns = self.blocking.warp
        warp_row, warp_column = self._warp_place(at)
        step, b_start = self._a_tile.step, start + self._a_tile.chunks
        left, right = local(rows // 8 * step), local(columns // 4 * step)
        with B.serial(self._depth // step) as k:
            for i in range(rows // 8):
                row = warp_row + i * 8 + at.lane // 4
                left.set_vector(i, step, memory.vector(start + self._a_tile.chunk(row, k), step))
            for j in range(columns // 4):
                row = warp_column + j // 2 * 8 + at.lane % 4 * 2 + j % 2
                right.set_vector(j, step, memory.vector(b_start + self._b_tile.chunk(row, k), step))
            for e in range(step):
                for i in range(rows // 8):
                    for j in range(columns // 4):
                        slot = (i // 2 * (columns // 8) + j // 2) * 4 + i % 2 * 2 + j % 2
                        sums[slot] = sums[slot] + left[i * step + e] * right[j * step + e]

    def _warp_place(self, at: Place) -> tuple[Expr, Expr]:
        """First row and column of the warp in its block of y."""
        rows, columns = self.blocking.warp
        return at.warp // self.blocking.warps[1] * rows, at.warp % self.blocking.warps[1] * columns

    def _store(
        self, at: Place, rest: Sequence[Memory], row: Expr, column: Expr, position: Sequence[Expr], sums: Memory
    ) -> None:
        rows, columns = self.blocking.warp
        warp_row, warp_column = self._warp_place(at)
        width = self.epilogue.width(self.y, self.n, 2)
        residual = self.epilogue.residual
        starts = (B.int32(0) if residual is None else _offset(position, residual)), _offset(position, self.y)
        first_row = B.bind(row + warp_row + at.lane // 4)
        first = B.bind((column + warp_column) // 2 + at.lane % 4)  # in pairs
        whole = self.m % self.blocking.block[0] == 0, self.n % self.blocking.block[1] == 0
        for i in range(rows // 8):
            y_row = B.bind(first_row + i * 8)
            for j in range(columns // 8):
                slot = (i // 2 * (columns // 8) + j) * 4 + i % 2 * 2
                for part in range(2 // width):
                    vector = (first + j * 4) * (2 // width) + part
                    values = [self._sum(sums, slot + part * width + e) for e in range(width)]
                    inside = every(whole[0] or y_row < self.m, whole[1] or vector * width < self.n)
                    place = (*starts, y_row)
                    self.epilogue.store(rest, self.y, place, (vector, vector * width), values, inside)

    def _sum(self, sums: Memory, slot: int) -> Expr:
        return tirx.reinterpret("int32", sums[slot]) if sums.dtype == "uint32" else sums[slot]

    @classmethod
    def blocking_for(cls, m: int, n: int, batch: int, dtype: str, architecture: Architecture) -> Blocking:
        """The blocking that is done soonest: rounds of blocks on all multiprocessors, each as long as its sums take.

        A block that is half as large takes more than half as long: each factor is used for fewer products.
        """

        def cost(blocking: Blocking) -> float:
            rows, columns = blocking.block
            blocks = -(-m // rows) * -(-n // columns) * batch
            rounds = -(-blocks // architecture.multiprocessors)
            return rounds * (rows * columns + 32 * (rows + columns))

        return min(BLOCKINGS, key=cost)


def _grouped(block: Expr, down: int, across: int) -> tuple[Expr, Expr]:
    """Row and column of a block: blocks go down a few rows, then to the next column."""
    if down <= _TOGETHER:
        return B.bind(block % down), B.bind(block // down)
    group = B.bind(block // (_TOGETHER * across))
    rows = B.bind(B.min(down - group * _TOGETHER, _TOGETHER))
    inside = B.bind(block - group * (_TOGETHER * across))
    return B.bind(group * _TOGETHER + inside % rows), B.bind(inside // rows)


def _positions(index: Expr, sizes: Sequence[int]) -> list[Expr]:
    positions = []
    rest = math.prod(sizes)
    for size in sizes:
        rest //= size
        positions.append(index // rest % size)
    return positions


def _offset(position: Sequence[Expr], matrices: Matrices) -> Expr:
    """Where the matrix at a position of the batch begins."""
    return B.bind(sum((p * s for p, s in zip(position, matrices.batch, strict=True)), B.int32(0)))
