"""Linear layers of 8-bit integers whose inputs are float32: every row is quantised when it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Kernel, Operand, Registers, broadcast
from .conv_shape import activation, load_first, rows_as_pixels
from .gemm import tasks
from .integer import STEP, DotProduct
from .integer_conv import integer_tile
from .linear_shape import LinearShape, Rows
from .reduce import across
from .requantization import fence, round_even
from .tiled_conv import TileBody, TiledConv
from .vmath import bits, constant, convert, select

_LARGEST = 127  # of the integers that a row becomes
_INFINITY = 0x7F800000  # the bits of float32 infinity; those of NaN are more
_MAGNITUDE = 0x7FFFFFFF  # the bits of a float32 but its sign: as integers they are ordered as the numbers are


@dataclass(frozen=True, kw_only=True)
class QuantizeRows(Kernel):
    """Each row of x as biased 8-bit integers round(x * (127 / max|row|)), and its scale max|row| / 127.

    The scale is 1 for a row so small that 127 / max|row| is infinite, and NaN for a row that is not finite. Rows of the
    result are `stride(k)` bytes apart.
    """

    name: ClassVar[str] = "quantize-rows"

    outer: int
    inner: int
    k: int
    x: Rows
    lanes: int

    @staticmethod
    def stride(k: int) -> int:
        """Bytes from one row of the result to the next: whole steps of the dot product."""
        return -(-k // STEP) * STEP

    def operands(self) -> tuple[Operand, ...]:
        return (Operand("x", "float32"), Operand("y", "uint8", write=True), Operand("scale", "float32", write=True))

    def flops(self) -> int:
        return 4 * self.outer * self.inner * self.k

    def describe(self) -> str:
        return f"quantize-rows {self.outer * self.inner}x{self.k}"

    def emit(self, x: Access, y: Access, scale: Access) -> None:
        with tasks(self.outer * self.inner, self.flops()) as row:
            outer, inner = B.bind(row // self.inner), B.bind(row % self.inner)
            source = x.shifted(outer * self.x.outer + inner * self.x.inner)
            self._row(source, y.shifted(row * self.stride(self.k)), scale.shifted(row))

    def _row(self, x: Access, y: Access, scale: Access) -> None:
        lanes = self.lanes
        largest, numbers = Registers(1, lanes, "int32"), Registers(3, 1)
        largest[0] = constant(0, "int32", lanes)

        def compare(at: Expr, count: int) -> None:
            magnitude = bits(load_first(x, at, lanes, count), "int32") & constant(_MAGNITUDE, "int32", lanes)
            largest[0] = B.max(largest[0], magnitude)

        self._vectors(compare)
        most = B.bind(across(B.max, largest[0]))
        numbers[0] = bits(most, "float32")
        numbers[1] = B.float32(_LARGEST) / numbers[0]
        empty = bits(numbers[1], "int32").equal(_INFINITY)
        numbers[2] = select(most >= _INFINITY, B.float32(float("nan")), numbers[0] / B.float32(_LARGEST))
        scale.store(B.int32(0), select(empty, B.float32(1), numbers[2]))
        inverse = broadcast(B.bind(select(empty, B.float32(1), numbers[1])), lanes)

        def quantize(at: Expr, count: int) -> None:
            integers = round_even(load_first(x, at, lanes, count) * inverse, lanes)
            biased = convert(integers + constant(128, "int32", lanes), "uint8")
            y.store(at, biased, lanes, count=None if count == lanes else count)

        self._vectors(quantize)

    def _vectors(self, body: Callable[[Expr, int], None]) -> None:
        """Run `body(first, count)` on the vectors of a row; the last may count fewer lanes."""
        whole, rest = divmod(self.k, self.lanes)
        if whole:
            with B.serial(whole) as number:
                body(B.bind(number * self.lanes), self.lanes)
        if rest:
            body(B.int32(whole * self.lanes), rest)


@dataclass(frozen=True)
class DynamicLinear(TiledConv):
    """activation(float32(integers @ weight) * (row scale * column scale) + bias + residual), each step rounded.

    As a 1x1 convolution of the rows. Operands: x and its row scales as `QuantizeRows` makes them, the weight and the
    sums as `pack` gives them, the column scales, bias if there is one, residual if there is one, y.
    """

    product: DotProduct
    bias: bool

    name: ClassVar[str] = "dynamic-linear"
    step: ClassVar[int] = STEP
    line: ClassVar[int] = 64

    @classmethod
    def choose(cls, layer: LinearShape, target: CpuTarget) -> DynamicLinear:
        """The kernel with the tile that the analytical model predicts to be fastest on `target`."""
        stride = QuantizeRows.stride(layer.k)
        shape = rows_as_pixels(layer, Rows(layer.inner * stride, stride)).flattened()
        tile = integer_tile(shape, target)
        return cls(shape, tile, DotProduct.choose(tile.lanes, target), layer.bias)

    def operands(self) -> tuple[Operand, ...]:
        """x, row_scale, weight, sums, scale, bias if there is one, residual if there is one, y."""
        return (
            Operand("x", "uint8"),
            Operand("row_scale", "float32"),
            Operand("weight", "int8"),
            Operand("sums", "int32"),
            Operand("scale", "float32"),
            *([Operand("bias", "float32")] if self.bias else []),
            *([Operand("residual", "float32")] if self.shape.residual_strides is not None else []),
            Operand("y", "float32", write=True),
        )

    def extensions(self) -> frozenset[str]:
        """Those of the dot product."""
        return self.product.extensions()

    def constants(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The operands `weight` and `sums` of an int8 weight [n, k]."""
        sums = -128 * weight.to(torch.int64).sum(1)
        return self.pack(weight.reshape(*weight.shape, 1, 1)), sums.to(torch.int32)

    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> TileBody:
        """What emits one panel of columns for the rows of image `n`."""
        return _Body(self, operands, n, group, panel)


class _Body(TileBody):
    def __init__(self, kernel: DynamicLinear, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> None:
        self.named = dict(zip((operand.name for operand in kernel.operands()), operands, strict=True))
        super().__init__(kernel, self.named["x"], self.named["weight"], n, group, panel)
        self.product, self.residual = kernel.product, self.named.get("residual")
        self.activate = activation(kernel.shape.activation)

    def register_tile(self, row: Expr, column: Expr, lines: int, columns: int, vectors: int, count: int) -> None:
        shape, tile = self.shape, self.tile
        self.first_row = B.bind((self.n * shape.height + row * tile.lines) * shape.width + column * tile.columns)
        self.rows = [line * shape.width + column for line in range(lines) for column in range(columns)]
        super().register_tile(row, column, lines, columns, vectors, count)

    def start(self, slots: int, counts: Sequence[int]) -> Registers:
        tile = Registers(slots, self.tile.lanes, "int32")
        first = self._columns("sums", counts)
        for slot in range(slots):
            tile[slot] = first[slot % len(counts)]
        return tile

    def products(
        self, sums: Registers, x: Access, k: Expr, steps: Sequence[int], weight: Access, at: Expr, vectors: int
    ) -> None:
        row = [self.product.weight(weight, at + v * (self.tile.lanes * STEP)) for v in range(vectors)]
        for p, step in enumerate(steps):
            value = self.product.x(x, k + step)
            for v in range(vectors):
                sums[p * vectors + v] = self.product.add(sums[p * vectors + v], value, row[v])

    def conclude(
        self, sums: Registers, counts: Sequence[int], y_at: Expr, residual_at: Expr, places: Sequence[tuple[int, int]]
    ) -> None:
        lanes, scale, bias = self.tile.lanes, self._columns("scale", counts), self._columns("bias", counts)
        for p, (y_step, residual_step) in enumerate(places):
            row_scale = broadcast(B.bind(self.named["row_scale"].load(self.first_row + self.rows[p])), lanes)
            for v, count in enumerate(counts):
                value: Any = convert(sums[p * len(counts) + v], "float32")
                value = fence(value * fence(row_scale * scale[v]))
                value = value + bias[v] if bias else value
                if self.residual is not None:
                    value = value + load_first(self.residual, residual_at + (residual_step + v * lanes), lanes, count)
                where = y_at + (y_step + v * lanes)
                kept = None if count == lanes else count
                self.named["y"].store(where, self.activate(value, lanes), lanes, count=kept)

    def _columns(self, name: str, counts: Sequence[int]) -> list[Expr]:
        """A vector of an operand's values for each vector of columns; none without the operand."""
        if name not in self.named:
            return []
        lanes, first = self.tile.lanes, self.first_channel
        return [B.bind(load_first(self.named[name], first + v * lanes, lanes, c)) for v, c in enumerate(counts)]
