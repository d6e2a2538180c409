"""Batched products of two activations of 8-bit integers: y = (a - a_zero) @ (b - b_zero), requantised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Kernel, Operand, Registers, broadcast, scratch
from .channel_vectors import Channels, Vector
from .gemm import tasks
from .integer import DotProduct, reinterpret
from .interleave import BLOCK, QUAD, quads, unpack
from .loops import run, serial
from .matmul import Matrix, batch_offset
from .requantization import Requantization, Results
from .transpose import transposed
from .vmath import constant, convert, hold

_COPIED = 16  # bytes moved or added at a time


@dataclass(frozen=True)
class _Scratch:
    """A task's own memory: a copied, b packed, what its columns start from, what its rows add."""

    a: Access | None
    b: Access
    starts: Access
    row_sums: Access | None


@dataclass(frozen=True, kw_only=True)
class IntegerMatMul(Kernel):
    """y[batch, m, n] = a[batch, m, k] @ b[batch, k, n], each with its own strides; columns of y are dense.

    Operands: a and b, biased; `zeros`, see `pack_zeros`; then those of `results`. A task is `rows` rows of one matrix.
    It first lays out b as signed bytes, four of a column side by side, and a as well where its rows are not dense or
    do not end with a whole step. With `b_zero` b has a zero point.
    """

    name: ClassVar[str] = "integer-matmul"

    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    y: Matrix
    results: Requantization
    b_zero: bool
    columns: Channels
    extension: str
    tile_rows: int
    rows: int

    @classmethod
    def choose(
        cls,
        batch: tuple[int, ...],
        m: int,
        n: int,
        k: int,
        *,
        a: Matrix,
        b: Matrix,
        y: Matrix,
        results: Requantization,
        b_zero: bool,
        target: CpuTarget,
    ) -> IntegerMatMul:
        """The kernel with tiles and task sizes chosen for `target`."""
        most = (target.vector.registers - QUAD - 2) // QUAD  # a step of b and one of a are held beside the sums
        tile_rows = -(-m // -(-m // most))
        matrices = math.prod(batch)
        wanted = 1 if matrices % target.cores == 0 or matrices >= 4 * target.cores else target.cores
        rows = min(m, -(-(-(-m // tile_rows)) // wanted) * tile_rows)
        return cls(
            batch=batch,
            m=m,
            n=n,
            k=k,
            a=a,
            b=b,
            y=y,
            results=results,
            b_zero=b_zero,
            columns=Channels.cut(n, QUAD * target.vector.lanes),
            extension=DotProduct.choose(QUAD, target).extension,
            tile_rows=tile_rows,
            rows=rows,
        )

    @staticmethod
    def pack_zeros(a_zero: int, b_zero: int, k: int) -> torch.Tensor:
        """What sums of products of biased a and b lack: factors of b's column sums and of a's row sums, a constant."""
        biased = a_zero + 128
        return torch.tensor([-biased, -b_zero, k * biased * b_zero], dtype=torch.int32)

    def operands(self) -> tuple[Operand, ...]:
        return Operand("a", "uint8"), Operand("b", "uint8"), Operand("zeros", "int32"), *self.results.operands()

    def extensions(self) -> frozenset[str]:
        return DotProduct(QUAD, self.extension).extensions()

    def flops(self) -> int:
        return 2 * math.prod(self.batch) * self.m * self.n * self.k

    def describe(self) -> str:
        return f"{self.name} {self.tile_rows}x{self.columns.width}, {self.rows} rows a task"

    @property
    def _steps(self) -> int:
        """How often four elements of k are taken together."""
        return -(-self.k // QUAD)

    @property
    def _copies_a(self) -> bool:
        return self.a.column != 1 or self.k % QUAD != 0

    def emit(self, *operands: Access) -> None:
        parts = -(-self.m // self.rows)
        with tasks(math.prod(self.batch) * parts, self.flops() // 4) as task:
            part, matrix = B.bind(task % parts), B.bind(task // parts)
            # the last rows of a matrix, or of a task, are moved back over their neighbours where they are too few
            first = B.bind(B.min(part * self.rows, self.m - self.rows))
            a, b, zeros, *rest = operands
            a = a.shifted(batch_offset(self.batch, self.a.batch, matrix) + first * self.a.row)
            b = b.shifted(batch_offset(self.batch, self.b.batch, matrix))
            y_at = B.bind(batch_offset(self.batch, self.y.batch, matrix) + first * self.y.row)
            room = _Scratch(
                scratch(self.rows * self._steps * QUAD, "uint8") if self._copies_a else None,
                scratch(self._steps * QUAD * max(self.columns.width, self.columns.last), "int8"),
                scratch(max(self.columns.width, self.columns.last), "int32"),
                scratch(self.rows, "int32") if self.b_zero else None,
            )
            self._rows(a, b, zeros, rest, y_at, room)

    def _rows(self, a: Access, b: Access, zeros: Access, rest: Sequence[Access], y_at: Expr, room: _Scratch) -> None:
        """The products of a task's rows of a with all of b."""
        pitch = self.a.row
        if room.a is not None:
            self._copy(a, room.a)
            a, pitch = room.a, self._steps * QUAD
        if room.row_sums is not None:
            self._sum_rows(a, pitch, zeros, room.row_sums)

        def panel(vector: Vector) -> None:
            self._pack(b.shifted(vector.channel * self.b.column), room.b, vector)
            self._sum_columns(room.b, room.starts, zeros, vector)
            with B.serial(-(-self.rows // self.tile_rows)) as tile:
                row = B.bind(B.min(tile * self.tile_rows, self.rows - self.tile_rows))
                self._tile(a.shifted(row * pitch), pitch, rest, y_at, room, row, vector)

        if self.columns.full:
            with B.serial(self.columns.full) as number:
                panel(self.columns.vector(number))
        if self.columns.last:
            panel(self.columns.last_vector())

    def _tile(
        self,
        a: Access,
        pitch: int,
        rest: Sequence[Access],
        y_at: Expr,
        room: _Scratch,
        row: Expr,
        vector: Vector,
    ) -> None:
        """A tile of rows of y for one vector of columns."""
        count = self.tile_rows
        dot = DotProduct(vector.lanes, self.extension)
        sums = Registers(count * QUAD, vector.lanes, "int32")
        starts = [B.bind(room.starts.load(B.int32(v * vector.lanes), vector.lanes)) for v in range(QUAD)]
        for i, v in product(range(count), range(QUAD)):
            of_row = None if room.row_sums is None else broadcast(room.row_sums.load(row + i), vector.lanes)
            sums[i * QUAD + v] = starts[v] if of_row is None else starts[v] + of_row
        with B.serial(self._steps) as step:
            columns = [dot.weight(room.b, step * (QUAD * vector.width) + v * vector.width) for v in range(QUAD)]
            for i in range(count):
                left = dot.x(a, i * pitch + step * QUAD)
                for v in range(QUAD):
                    sums[i * QUAD + v] = dot.add(sums[i * QUAD + v], left, columns[v])
        places = [(B.bind(y_at + (row + i) * self.y.row + vector.channel), B.int32(0)) for i in range(count)]
        Results(self.results, vector.lanes, rest).store_unpacked(sums, B.int32(0), vector.count, places)

    def _copy(self, a: Access, copied: Access) -> None:
        """Rows of a one after another, zeros behind each up to a whole step."""
        pitch = self._steps * QUAD
        with B.serial(self.rows) as row:
            for i in range(self.k, pitch):
                copied.store(row * pitch + i, tirx.const(0, "uint8"))

            def move(start: Expr, lanes: int, slot: int) -> None:
                value = a.load(row * self.a.row + start * self.a.column, lanes, stride=self.a.column)
                copied.store(row * pitch + start, value, lanes)

            run(self.k, _COPIED, move)

    def _sum_rows(self, a: Access, pitch: int, zeros: Access, row_sums: Access) -> None:
        """What b's zero point adds to each row."""
        with B.serial(self.rows) as row:
            total = Registers(1, 1, "int32")
            total[0] = B.int32(0)

            def add(start: Expr, lanes: int, slot: int) -> None:
                wide = convert(a.load(row * pitch + start, lanes), "int32")
                if lanes > 1:
                    wide = tirx.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.add.v{lanes}i32", wide)
                total[0] = total[0] + wide

            run(self.k, _COPIED, add)
            row_sums.store(row, total[0] * zeros.load(B.int32(1)))

    def _sum_columns(self, b: Access, starts: Access, zeros: Access, vector: Vector) -> None:
        """What sums of a column start from: what the zero points add to all of it."""
        dot = DotProduct(vector.lanes, self.extension)
        ones = dot.left(constant(0x01010101, "int32", vector.lanes))
        sums = Registers(QUAD, vector.lanes, "int32")
        for v in range(QUAD):
            sums[v] = constant(0, "int32", vector.lanes)
        with B.serial(self._steps) as step:
            for v in range(QUAD):
                column = dot.weight(b, step * (QUAD * vector.width) + v * vector.width)
                sums[v] = dot.add(sums[v], ones, column)
        factor, start = (broadcast(zeros.load(B.int32(i)), vector.lanes) for i in (0, 2))
        for v in range(QUAD):
            starts.store(B.int32(v * vector.lanes), sums[v] * factor + start, vector.lanes)

    # b as signed bytes, four of a column side by side, columns in the order of `interleave.quads`

    def _pack(self, b: Access, packed: Access, vector: Vector) -> None:
        whole = self.k // QUAD
        if self.b.column == 1:
            with B.serial(whole) as step:
                self._interleave(b.shifted(step * (QUAD * self.b.row)), QUAD, packed, step, vector)
            if self.k % QUAD:
                last = b.shifted(whole * QUAD * self.b.row)
                self._interleave(last, self.k % QUAD, packed, B.int32(whole), vector)
            return
        side = min(vector.lanes, 1 << (whole.bit_length() - 1)) if whole else 0
        if self.b.row != 1 or side < QUAD:
            self._pack_bytes(b, packed, vector, 0)
            return
        blocks = -(-whole // side)
        with B.serial(blocks) as block:
            step = B.bind(block * side if whole % side == 0 else B.min(block * side, whole - side))
            self._turn(b.shifted(step * QUAD), packed.shifted(step * (QUAD * vector.width)), side, vector)
        if self.k % QUAD:
            self._pack_bytes(b, packed, vector, whole)

    def _interleave(self, b: Access, rows: int, packed: Access, step: Expr, vector: Vector) -> None:
        """A step from rows of b."""
        width, count = vector.width, vector.count
        loaded = [
            hold(b.load(B.int32(i * self.b.row), width, count=None if count == width else count)) for i in range(rows)
        ]
        loaded += [constant(128, "uint8", width)] * (QUAD - rows)
        low, high = (unpack(loaded[i], loaded[i + 1], "uint8") for i in (0, 2))
        for v, value in enumerate(quads(low, high)):
            self._store_signed(packed, step * (QUAD * width) + v * width, value, vector.lanes)

    def _turn(self, b: Access, packed: Access, side: int, vector: Vector) -> None:
        """`side` steps from columns of b."""
        for v, start in product(range(QUAD), range(0, vector.lanes, side)):
            rows = []
            for lane in range(start, start + side):
                column = min(lane // QUAD * BLOCK + v * QUAD + lane % QUAD, vector.count - 1)
                value = b.load(B.int32(column * self.b.column), QUAD * side)
                rows.append(hold(reinterpret(value, "int32", side)))
            for step, value in enumerate(transposed(rows, side)):
                at = step * (QUAD * vector.width) + v * vector.width + start * QUAD
                self._store_signed(packed, B.int32(at), value, side)

    def _pack_bytes(self, b: Access, packed: Access, vector: Vector, first: int) -> None:
        """The steps from `first` on, byte by byte."""
        with serial(self._steps - first, "b lies densely in no direction, or its end") as step:
            with B.serial(vector.width) as column:
                block, rest = column // BLOCK, column % BLOCK
                lane = (rest // QUAD) * vector.lanes + block * QUAD + rest % QUAD
                at = B.bind((first + step) * (QUAD * vector.width) + lane * QUAD)
                for i in range(QUAD):
                    k = B.bind((first + step) * QUAD + i)
                    inside = tirx.all(k < self.k, column < vector.count)
                    with B.If(inside):
                        with B.Then():
                            value = b.load(k * self.b.row + column * self.b.column)
                            packed.store(at + i, convert(value ^ tirx.const(128, "uint8"), "int8"))
                        with B.Else():
                            packed.store(at + i, tirx.const(0, "int8"))

    def _store_signed(self, packed: Access, at: Expr, value: Expr, lanes: int) -> None:
        signed = value ^ constant(-0x7F7F7F80, "int32", lanes)  # 128 taken away from each byte
        packed.store(at, reinterpret(signed, "int8", QUAD * lanes), QUAD * lanes)
