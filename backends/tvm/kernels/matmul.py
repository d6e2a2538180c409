"""Batched products of two activations: y[..., m, n] = scale * a[..., m, k] @ b[..., k, n] on strided views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Kernel, Operand, broadcast, scratch
from .gemm import accumulate, best_rows, counts, fits, rows_cycles, tasks, tiles, zeros
from .gemm import part as cut
from .loops import run


@dataclass(frozen=True)
class Matrix:
    """A batch of matrices: the strides in elements of the batch dimensions (0 broadcasts), of rows and of columns."""

    batch: tuple[int, ...]
    row: int
    column: int


def batch_offset(sizes: tuple[int, ...], strides: tuple[int, ...], matrix: Expr) -> Expr:
    """The element offset of a matrix, counted over all batch dimensions."""
    offset, rest = B.int32(0), matrix
    for size, stride in reversed(list(zip(sizes, strides, strict=True))):
        offset, rest = offset + rest % size * stride, B.bind(rest // size)
    return offset


@dataclass(frozen=True, kw_only=True)
class MatMul(Kernel):
    """y[batch, m, n] = scale * a[batch, m, k] @ b[batch, k, n].

    Operands: a, b, y, each with any strides. A task is one matrix of the batch and `block` columns of y. Where b's
    columns are not dense, the task first copies its part of b into scratch memory.
    """

    name: ClassVar[str] = "matmul"

    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    y: Matrix
    scale: float = 1.0
    lanes: int
    tile_rows: int
    tile_vectors: int
    block: int
    row_blocks: int = 1

    def operands(self) -> tuple[Operand, ...]:
        return Operand("a", "float32"), Operand("b", "float32"), Operand("y", "float32", write=True)

    def flops(self) -> int:
        return 2 * math.prod(self.batch) * self.m * self.n * self.k

    def describe(self) -> str:
        packed = ", b packed" if self.b.column != 1 else ""
        return f"matmul {self.tile_rows}x{self.tile_vectors}, {self.block} columns a task{packed}"

    def emit(self, *operands: Access) -> None:
        a, b, y = operands
        blocks = -(-self.n // self.block)
        rows = -(-self.m // self.row_blocks)
        with tasks(math.prod(self.batch) * blocks * self.row_blocks, self.flops()) as task:
            part, block = B.bind(task % self.row_blocks), B.bind(task // self.row_blocks % blocks)
            matrix = B.bind(task // (self.row_blocks * blocks))
            a, b, y = (
                access.shifted(batch_offset(self.batch, where.batch, matrix))
                for access, where in ((a, self.a), (b, self.b), (y, self.y))
            )
            first = B.bind(block * self.block)
            b, y = b.shifted(first * self.b.column), y.shifted(first * self.y.column)
            a, y = a.shifted(part * rows * self.a.row), y.shifted(part * rows * self.y.row)
            packed = scratch(self.k * self._pitch()) if self.b.column != 1 else None

            def body(rows: int, columns: int) -> None:
                right, row = b, self.b.row
                if packed is not None:
                    right, row = packed, self._pitch()
                    self._pack(b, packed, columns)
                self._columns(a, right, row, y, rows, columns)

            cut(part, self.m, rows, lambda rows: cut(block, self.n, self.block, lambda columns: body(rows, columns)))

    def _pitch(self) -> int:
        return -(-self.block // self.lanes) * self.lanes

    def _pack(self, b: Access, packed: Access, columns: int) -> None:
        """packed[k][column] = b[k][column] for a b whose rows are not dense; reads along k where that is dense."""
        pitch, lanes = self._pitch(), self.lanes
        padded = -(-columns // lanes) * lanes
        if padded > columns:
            with B.serial(self.k) as row:
                packed.store(row * pitch + padded - lanes, broadcast(B.float32(0), lanes), lanes)
        with B.serial(columns) as column:

            def copy(row: Expr, lanes: int, slot: int) -> None:
                value = b.load(row * self.b.row + column * self.b.column, lanes, stride=self.b.row)
                packed.store(row * pitch + column, value, lanes, stride=pitch)

            run(self.k, lanes, copy)

    def _columns(self, a: Access, b: Access, b_row: int, y: Access, rows: int, columns: int) -> None:
        lanes, width = self.lanes, self.lanes * self.tile_vectors
        scale = B.float32(self.scale)

        def panel(first: Expr, columns: int) -> None:
            valid = counts(columns, lanes)
            vectors = len(valid)
            whole = b_row == self._pitch() and self.b.column != 1  # scratch may be read beyond its last column

            def tile(row: Expr, rows: int) -> None:
                sums = zeros(rows, vectors, lanes)
                left = a.shifted(row * self.a.row)
                accumulate(
                    sums,
                    rows,
                    vectors,
                    self.k,
                    lambda i, k: left.load(i * self.a.row + k * self.a.column),
                    lambda j, k: b.load(k * b_row + first + j * lanes, lanes, count=None if whole else valid[j]),
                )
                for i in range(rows):
                    for j in range(vectors):
                        value = sums[i * vectors + j]
                        if self.scale != 1.0:
                            value = value * broadcast(scale, lanes)
                        self._store(y, row + i, first + j * lanes, B.bind(value), valid[j])

            tiles(rows, self.tile_rows, tile)

        tiles(columns, width, panel)

    def _store(self, y: Access, row: Expr, column: Expr, value: Expr, count: int | None) -> None:
        at = row * self.y.row + column * self.y.column
        y.store(at, value, self.lanes, count=count)

    @classmethod
    def choose(
        cls,
        batch: tuple[int, ...],
        m: int,
        n: int,
        k: int,
        *,
        target: CpuTarget,
        a: Matrix | None = None,
        b: Matrix | None = None,
        y: Matrix | None = None,
        scale: float = 1.0,
    ) -> MatMul:
        """The kernel with tiles and task sizes chosen for `target`; operands are dense where not given.

        The columns of y must be dense.
        """
        lanes, registers = target.vector.lanes, target.vector.registers

        def dense(rows: int, columns: int) -> Matrix:
            strides = [rows * columns * math.prod(batch[i + 1 :]) for i in range(len(batch))]
            return Matrix(tuple(strides), columns, 1)

        options = [(best_rows(m, v, registers), v) for v in (1, 2, 3, 4, 6, 8) if fits(1, v, registers)]
        vectors_of_n = -(-n // lanes)

        def cycles(option: tuple[int, int]) -> float:
            rows, vectors = option
            whole, tail = divmod(vectors_of_n, vectors)
            return whole * rows_cycles(m, rows, vectors) + (rows_cycles(m, rows, tail) if tail else 0.0)

        tile_rows, tile_vectors = min(options, key=cycles)
        width = lanes * tile_vectors
        panels = -(-n // width)
        matrices = math.prod(batch)
        # Enough tasks to keep the cores level, but no more of b in one task than half of L2.
        wanted = 1 if matrices % target.cores == 0 or matrices >= 8 * target.cores else 2 * target.cores
        most = max(1, target.l2 // 2 // (4 * k * width))
        block = min(-(-panels // wanted), most) * width
        row_blocks = 1
        if -(-n // block) * matrices < wanted:
            row_blocks = max(1, min(wanted, m // (2 * tile_rows)))
        row_blocks = -(-m // -(-m // row_blocks))
        return cls(
            batch=batch,
            m=m,
            n=n,
            k=k,
            a=a or dense(m, k),
            b=b or dense(k, n),
            y=y or dense(m, n),
            scale=scale,
            lanes=lanes,
            tile_rows=tile_rows,
            tile_vectors=tile_vectors,
            block=block,
            row_blocks=row_blocks,
        )
