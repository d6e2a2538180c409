"""Rows that threads share: each thread has some elements of a row, and sums are made across the threads of a row.

A row belongs to a warp or to a block. Its elements are read once and kept in registers; rows that are too long for that
are read again for every pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as B

from ...tvm.kernels.base import Expr
from ...tvm.kernels.vmath import from_float32, hold, to_float32
from ...tvm.views import ITEM_SIZES
from ..architectures import WARP
from .base import ACCESS, Launch, Memory, Place, barrier, local, shared, when

_BLOCK = 128  # threads of a block in which each warp has a row
_KEPT = 32  # elements of a row that a thread keeps in registers
_MOST_THREADS = 1024
_ALL = 0xFFFFFFFF  # all lanes of a warp

Combine = Callable[[Expr, Expr], Expr]
Pass = Callable[[Sequence[Expr], Expr], None]  # of a vector's elements and its number


@dataclass(frozen=True)
class Rows:
    """`shape` rows of `size` elements, `step` apart, in memory: `strides` of the rows, in elements.

    With `vector` above 1 the elements are dense, and so many are read and written at once.
    """

    shape: tuple[int, ...]
    size: int
    strides: tuple[int, ...]
    step: int = 1
    dtype: str = "float32"

    def start(self, row: Expr, vector: int) -> Expr:
        """Where row number `row` begins, in vectors."""
        total, left = B.int32(0), math.prod(self.shape)
        for size, stride in zip(self.shape, self.strides, strict=True):
            left //= size
            total = total + row // left % size * (stride // vector)
        return B.bind(total)

    def widest(self, aligned: int) -> int:
        """How many elements can be read at once where `aligned` bytes divide the first one's address."""
        if self.step != 1:
            return 1
        lanes = ACCESS // ITEM_SIZES[self.dtype]
        while lanes > 1 and (
            self.size % lanes or aligned % (lanes * ITEM_SIZES[self.dtype]) or any(s % lanes for s in self.strides)
        ):
            lanes //= 2
        return lanes


@dataclass(frozen=True)
class Sharing:
    """How threads share rows: `threads` have a row, a block has `rows` of them."""

    count: int
    size: int
    vector: int
    threads: int
    rows: int

    @classmethod
    def of(cls, source: Rows, vector: int) -> Sharing:
        """A warp a row, or for long ones a block."""
        threads = WARP
        while threads < _MOST_THREADS and source.size > threads * _KEPT:
            threads *= 4 if threads == WARP else 2
        rows = _BLOCK // WARP if threads == WARP else 1
        return cls(math.prod(source.shape), source.size, vector, threads, rows)

    def launch(self) -> Launch:
        return Launch((max(-(-self.count // self.rows), 1), 1, 1), self.threads * self.rows)


class Row:
    """A row's elements, as float32, that the running thread has, and what is made of all of them."""

    def __init__(self, sharing: Sharing, source: Rows, at: Place, x: Memory) -> None:
        self._sharing, self._x = sharing, x
        row = B.bind(at.block[0] * sharing.rows + (at.warp if sharing.rows > 1 else 0))
        self.exists = True if sharing.count % sharing.rows == 0 else row < sharing.count
        # threads of rows that do not exist compute the last one: all lanes take part in sums
        self.number = row if self.exists is True else B.bind(B.min(row, sharing.count - 1))
        self._first = B.bind(at.lane if sharing.rows > 1 else at.thread)
        self._at = at
        self._start, self._step = source.start(self.number, sharing.vector), source.step
        self._vectors = sharing.size // sharing.vector
        self._turns = -(-self._vectors // sharing.threads)
        self._scratch = shared(sharing.threads // WARP) if sharing.threads > WARP else None
        self._kept = None
        if self._turns * sharing.vector <= _KEPT:
            self._kept = local(self._turns * sharing.vector)
            self._each_turn(lambda turn, number: self._keep(turn, self._read(number)))

    def each(self, visit: Pass) -> None:
        """Emit `visit` for every vector of elements that the thread has."""

        def turn_of(turn: Any, number: Expr) -> None:
            vector = self._sharing.vector
            if self._kept is None:
                visit(self._read(number), number)
            else:
                visit([self._kept[turn * vector + i] for i in range(vector)], number)

        self._each_turn(turn_of)

    def total(self, first: float, value: Callable[[Expr], Expr], combine: Combine) -> Expr:
        """What `combine` makes of `value` of all elements of the row; `first` changes nothing."""
        sums = local(1)
        sums[0] = tirx.const(first, "float32")

        def add(values: Sequence[Expr], number: Expr) -> None:
            for each in values:
                sums[0] = combine(sums[0], value(each))

        self.each(add)
        return self._across(sums, combine)

    def write(self, y: Memory, target: Rows, result: Callable[[Expr, Expr], Expr]) -> None:
        """Store `result(element, its index)` for every element of a row that exists."""
        vector = self._sharing.vector
        start = target.start(self.number, vector)
        out = local(vector, target.dtype)

        def put(values: Sequence[Expr], number: Expr) -> None:
            for i, value in enumerate(values):
                out[i] = from_float32(hold(result(value, number * vector + i)), target.dtype)
            y.set_vector(start + number * target.step, vector, out.vector(0, vector))

        when(self.exists, lambda: self.each(put))

    def _each_turn(self, body: Callable[[Any, Expr], None]) -> None:
        threads = self._sharing.threads

        def turn_of(turn: Any) -> None:
            number = B.bind(turn * threads + self._first)
            whole = isinstance(turn, int) and (turn + 1) * threads <= self._vectors
            when(True if whole else number < self._vectors, lambda: body(turn, number))

        if self._turns * self._sharing.vector <= _KEPT:
            for turn in range(self._turns):
                turn_of(turn)
            return
        with B.serial(self._turns) as turn:
            turn_of(turn)

    def _read(self, number: Expr) -> list[Expr]:
        vector = self._sharing.vector
        raw = local(vector, self._x.dtype)
        raw.set_vector(0, vector, self._x.vector(self._start + number * self._step, vector))
        return [to_float32(raw[i]) for i in range(vector)]

    def _keep(self, turn: int, values: Sequence[Expr]) -> None:
        assert self._kept is not None
        for i, value in enumerate(values):
            self._kept[turn * self._sharing.vector + i] = value

    def _across(self, sums: Memory, combine: Combine) -> Expr:
        """Combine a value of all threads of the row; each gets the result."""
        exchange = getattr(B.cuda, "__shfl_xor_sync")
        distance = WARP // 2
        while distance:
            sums[0] = combine(sums[0], hold(exchange(B.uint32(_ALL), sums[0], distance, WARP)))
            distance //= 2
        if self._scratch is None:
            return sums[0]
        scratch = self._scratch
        when(self._at.lane == 0, lambda: scratch.__setitem__(self._at.warp, sums[0]))
        barrier()
        total = local(1)
        total[0] = scratch[0]
        for warp in range(1, self._sharing.threads // WARP):
            total[0] = combine(total[0], scratch[warp])
        barrier()
        return total[0]
