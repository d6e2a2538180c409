"""Requantisation in kernels: from 32-bit sums to 8-bit integers or float32, bit for bit as the reference ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from ....ops.requantization import HIGHEST, LOWEST, multiplier_of, shift_of
from .base import Access, Expr, Operand, Registers
from .conv_shape import activation, load_first
from .integer import LEAST_LANES, STEP, reinterpret
from .interleave import in_order
from .vmath import bits, constant, convert, lanes_of, vector_type

_LIMIT = 65536.0  # wide values are limited to this: beyond the range of results with any zero point

# By lanes of 32 bits: the intrinsics of vectors of 128, 256 and 512 bits.
_TO_WORDS = {4: "llvm.x86.sse2.packssdw.128", 8: "llvm.x86.avx2.packssdw", 16: "llvm.x86.avx512.packssdw.512"}
_TO_BYTES = {4: "llvm.x86.sse2.packuswb.128", 8: "llvm.x86.avx2.packuswb", 16: "llvm.x86.avx512.packuswb.512"}
_ROUND = {4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256", 16: "llvm.x86.avx512.mask.cvtps2dq.512"}


@dataclass(frozen=True)
class Numbers:
    """What belongs to a layer's requantisation: factors (float64) and the integers of its op.

    `factor` holds one factor a channel or one for all, `residual_factor` one for all.
    """

    factor: torch.Tensor
    zero: int = 0
    low: int = LOWEST
    high: int = HIGHEST
    residual_factor: float | None = None
    residual_zero: int = 0


@dataclass(frozen=True, kw_only=True)
class Requantization:
    """How 32-bit sums become results. `mode` "F" and "I" give biased 8-bit integers, "float" gives float32.

    Only what changes the code is fixed here, the numbers are in operands: layers of one shape share a kernel. There are
    `channels` factors; one serves all channels. With `clamped` results have other limits than those of 8 bits; with
    `wide` rounded sums may not fit 32 bits; without `zero` the zero point is -128, which is 0 in memory and need not be
    added. The residual is a biased 8-bit integer, with mode "float" a float32.
    """

    mode: str
    channels: int
    residual: bool = False
    clamped: bool = False
    wide: bool = False
    zero: bool = True
    activation: str = "none"

    @property
    def unpacked(self) -> bool:
        """Whether unpacked sums become results in their order: packing bytes then undoes what unpacking did."""
        return self.mode != "float" and not self.residual

    @classmethod
    def choose(cls, mode: str, numbers: Numbers, largest: int) -> Requantization:
        """The requantisation of 8-bit results with `numbers`, when no sum is further from 0 than `largest`."""
        reach = largest * float(numbers.factor.abs().max()) + 256 * (numbers.residual_factor or 0.0)
        return cls(
            mode=mode,
            channels=numbers.factor.numel(),
            residual=numbers.residual_factor is not None,
            clamped=(numbers.low, numbers.high) != (LOWEST, HIGHEST),
            wide=not reach < 2**30,
            zero=numbers.zero != LOWEST,
        )

    def pack(self, numbers: Numbers) -> tuple[torch.Tensor, ...]:
        """The operands `factor` and, for 8-bit results, `numbers`."""
        if self.mode == "float":
            return (numbers.factor.to(torch.float32),)
        residual = torch.tensor(numbers.residual_factor or 0.0, dtype=torch.float64)
        scale = residual.to(torch.float32).view(torch.int32).item()
        integers = [numbers.zero + 128, numbers.low + 128, numbers.high + 128, numbers.residual_zero + 128, scale]
        packed = torch.tensor(integers, dtype=torch.int32)
        if self.mode == "F":
            return numbers.factor.to(torch.float32), packed
        shift = shift_of(torch.maximum(numbers.factor, residual))
        parts = [multiplier_of(numbers.factor, shift), shift, multiplier_of(residual, shift)]
        return torch.stack(parts).to(torch.int32), packed

    def operands(self) -> tuple[Operand, ...]:
        """factor, numbers (not with mode "float"), residual where there is one, y."""
        real = self.mode == "float"
        element = "float32" if real else "uint8"
        return (
            Operand("factor", "int32" if self.mode == "I" else "float32"),
            *([] if real else [Operand("numbers", "int32")]),
            *([Operand("residual", element)] if self.residual else []),
            Operand("y", element, write=True),
        )


class Results:
    """The last step of a kernel: turns register tiles of sums, `lanes` wide, into results and stores them.

    `operands` are those that the requantisation names.
    """

    def __init__(self, how: Requantization, lanes: int, operands: Sequence[Access]) -> None:
        named = dict(zip((operand.name for operand in how.operands()), operands, strict=True))
        self._how, self._lanes = how, lanes
        self._factor, self._numbers, self._y = named["factor"], named.get("numbers"), named["y"]
        self.residual = named.get("residual")

    def store(
        self, sums: Registers, channel: Expr, counts: Sequence[int], rows: Sequence[tuple[Expr, Expr]], first: int = 0
    ) -> None:
        """Store the sums of rows of len(counts) vectors each, from slot `first` on.

        `channel` is that of the first lane of a row, `counts` says how many lanes of each vector count, and `rows`
        holds the places in y and in the residual (unused without one).
        """
        vectors = len(counts)
        tile = [(row, v) for row in range(len(rows)) for v in range(vectors)]
        finish = self._finisher(channel, counts)
        if self._how.mode == "float":
            for row, v in tile:
                y_at, residual_at = rows[row]
                value = finish(sums[first + row * vectors + v], v, residual_at + v * self._lanes)
                self._y.store(y_at + v * self._lanes, value, self._lanes, count=self._partly(counts[v]))
            return
        for start in range(0, len(tile), STEP):
            part = tile[start : start + STEP]
            rounded = [
                B.bind(finish(sums[first + row * vectors + v], v, rows[row][1] + v * self._lanes)) for row, v in part
            ]
            packed = self._packed(rounded)
            for position, (row, v), width in self._runs(part, counts):
                order = [
                    tirx.const(i, "int32") for i in range(position * self._lanes, (position + width) * self._lanes)
                ]
                value = packed if width == STEP else tirx.Shuffle([packed], order)
                at = rows[row][0] + v * self._lanes
                self._y.store(at, value, width * self._lanes, count=self._partly(counts[v]) if width == 1 else None)

    def store_unpacked(self, sums: Registers, channel: Expr, count: int, rows: Sequence[tuple[Expr, Expr]]) -> None:
        """Store sums whose lanes `interleave.quads` has spread, four vectors a row, `count` channels of them.

        `channel` is where the row's factors begin; they are spread too where `Requantization.unpacked` says so.
        """
        lanes = self._lanes
        if self._how.unpacked:
            finish = self._finisher(channel, [lanes] * STEP)
            for row, (y_at, _) in enumerate(rows):
                packed = self._saturated([B.bind(finish(sums[row * STEP + v], v, y_at)) for v in range(STEP)])
                self._y.store(y_at, packed, STEP * lanes, count=None if count == STEP * lanes else count)
            return
        counts = [min(lanes, count - start) for start in range(0, count, lanes)]
        ordered = Registers(STEP * len(rows), lanes, "int32")
        for row, place in enumerate(rows):
            for v, value in enumerate(in_order([sums[row * STEP + v] for v in range(STEP)])):
                ordered[row * STEP + v] = value
            self.store(ordered, channel, counts, [place], row * STEP)

    def _partly(self, count: int) -> int | None:
        return None if count == self._lanes else count

    def _runs(self, part: list[tuple[int, int]], counts: Sequence[int]) -> Iterator[tuple[int, tuple[int, int], int]]:
        """Cut up to four vectors into runs that one store writes: position, row and vector, 1, 2 or 4 vectors."""
        position = 0
        while position < len(part):
            row, v = part[position]
            whole = 0
            for other in part[position:]:
                if other != (row, v + whole) or counts[other[1]] != self._lanes:
                    break
                whole += 1
            width = 4 if whole == 4 else 2 if whole >= 2 else 1
            yield position, (row, v), width
            position += width

    def _finisher(self, channel: Expr, counts: Sequence[int]) -> Callable[[Expr, int, Expr], Expr]:
        """The function (sum, vector, place in the residual) -> float32 result, or integer before the zero point."""
        how, lanes = self._how, self._lanes

        def factor(number: int, v: int) -> Expr:
            if how.channels == 1:
                return B.bind(self._factor.load(B.int32(number), lanes, stride=0))
            return B.bind(load_first(self._factor, number * how.channels + channel + v * lanes, lanes, counts[v]))

        factors = [[factor(number, v) for v in range(len(counts))] for number in range(3 if how.mode == "I" else 1)]

        def residual(v: int, at: Expr) -> Expr:
            assert self.residual is not None
            return load_first(self.residual, at, lanes, counts[v])

        if how.mode == "float":
            activate = activation(how.activation)

            def real(value: Expr, v: int, at: Expr) -> Expr:
                value = fence(convert(value, "float32") * factors[0][v])
                return activate(value + residual(v, at) if how.residual else value, lanes)

            return real
        assert self._numbers is not None
        if how.residual:
            residual_zero = B.bind(self._numbers.load(B.int32(3), lanes, stride=0))
            residual_scale = B.bind(bits(self._numbers.load(B.int32(4), lanes, stride=0), "float32"))

        def added(v: int, at: Expr) -> Expr:
            return convert(residual(v, at), "int32") - residual_zero

        def rounded(value: Expr, v: int, at: Expr) -> Expr:
            total = fence(convert(value, "float32") * factors[0][v])
            if how.residual:
                total = total + fence(convert(added(v, at), "float32") * residual_scale)
            if how.wide:
                limit = constant(_LIMIT, "float32", lanes)
                total = B.min(B.max(total, constant(-_LIMIT, "float32", lanes)), limit)
            return round_even(total, lanes)

        def fixed(value: Expr, v: int, at: Expr) -> Expr:
            multiplier, shift, residual_multiplier = (convert(factors[number][v], "int64") for number in range(3))
            one = constant(1, "int64", lanes)
            total = convert(value, "int64") * multiplier + (one << (shift - one))
            if how.residual:
                total = total + convert(added(v, at), "int64") * residual_multiplier
            limit = constant(int(_LIMIT), "int64", lanes)
            return convert(B.min(B.max(total >> shift, -limit), limit), "int32")

        return rounded if how.mode == "F" else fixed

    def _packed(self, rounded: list[Expr]) -> Expr:
        """Up to four int32 vectors as one of biased 8-bit integers: the zero point added, limited to the range."""
        packed, lanes = self._saturated(rounded), self._lanes
        if lanes == LEAST_LANES:
            return packed
        # packing works within 128 bits: each holds four bytes of each of the four vectors
        order = [STEP * block + vector for vector in range(STEP) for block in range(lanes // STEP)]
        dwords = tirx.Shuffle([reinterpret(packed, "int32", lanes)], [tirx.const(i, "int32") for i in order])
        return B.bind(reinterpret(dwords, "uint8", 4 * lanes))

    def _saturated(self, rounded: list[Expr]) -> Expr:
        """`_packed` in the order of the instructions: four bytes of each vector in turn."""
        numbers, lanes = self._numbers, self._lanes
        assert numbers is not None
        words_type, bytes_type = vector_type("int16", 2 * lanes), vector_type("int8", 4 * lanes)

        def number(index: int, element: str, count: int) -> Expr:
            return B.broadcast(convert(numbers.load(B.int32(index)), element), count)

        def words(first: Expr, second: Expr) -> Expr:
            pair = tirx.call_llvm_pure_intrin(words_type, _TO_WORDS[lanes], first, second)
            if not self._how.zero:
                return B.bind(pair)
            zero = number(0, "int16", 2 * lanes)
            return B.bind(tirx.call_llvm_pure_intrin(words_type, f"llvm.sadd.sat.v{2 * lanes}i16", pair, zero))

        first = words(rounded[0], rounded[min(1, len(rounded) - 1)])
        second = first if len(rounded) <= 2 else words(rounded[2], rounded[-1])
        packed = tirx.call_llvm_pure_intrin(bytes_type, _TO_BYTES[lanes], first, second)
        packed = B.bind(reinterpret(packed, "uint8", 4 * lanes))
        if self._how.clamped:
            low, high = number(1, "uint8", 4 * lanes), number(2, "uint8", 4 * lanes)
            packed = B.bind(B.min(B.max(packed, low), high))
        return packed


def fence(x: Expr) -> Expr:
    """`x`, of float32, rounded before it goes on: LLVM would merge a product into the addition after it."""
    lanes = lanes_of(x)
    suffix = "f32" if lanes == 1 else f"v{lanes}f32"
    return tirx.call_llvm_pure_intrin(vector_type("float32", lanes), f"llvm.arithmetic.fence.{suffix}", x)


def round_even(x: Expr, lanes: int) -> Expr:
    """A float32 vector rounded half to even, as int32."""
    mode = [constant(0, "int32", lanes), tirx.const(-1, "int16"), tirx.const(4, "int32")] if lanes == 16 else []
    return tirx.call_llvm_pure_intrin(vector_type("int32", lanes), _ROUND[lanes], x, *mode)
