"""Depthwise convolution of 8-bit integers: bytes of neighbouring pixels side by side, so that one dot product takes
several taps of a kernel row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Kernel, Operand, Registers
from .channel_vectors import Channels, Vector
from .conv_shape import ConvShape
from .integer import DotProduct
from .interleave import QUAD, quads, unpack, unpacked_order
from .requantization import Requantization, Results

_MOST_TAPS = 64  # kernels with more are not written out row by row
_LEAST_PARALLEL_FLOPS = 300_000  # under this, starting the threads costs more than they save
# What a pixel costs in a tile of so many rows and columns: the larger the tile, the more its pixels share.
_TILES = {(2, 2): 1.0, (1, 4): 1.05, (1, 3): 1.25, (1, 2): 1.2, (2, 1): 1.3, (1, 1): 1.5}


@dataclass(frozen=True, kw_only=True)
class IntegerDepthwise(Kernel):
    """Convolution of each channel on its own (groups == ic == oc) of biased 8-bit integers, in one or two dimensions.

    Operands: x, weight as `pack` returns it, bias and factor as `spread` returns them, and what else `results` names.
    A register tile has `lines` rows of `columns` pixels by one vector of channels. A task is `rows` rows of pixels, a
    multiple of `lines`, by `vectors` vectors of channels; `order` says whether "rows" or "channels" vary slower in it.
    """

    name: ClassVar[str] = "integer-depthwise-conv"

    shape: ConvShape
    results: Requantization
    channels: Channels
    product: DotProduct
    lines: int
    columns: int
    rows: int
    vectors: int
    order: str
    parallel: bool

    def __post_init__(self) -> None:
        if not self.shape.groups == self.shape.ic == self.shape.oc:
            raise ValueError(f"shape must have groups == ic == oc, not {self.shape}")

    @classmethod
    def choose(cls, shape: ConvShape, results: Requantization, target: CpuTarget) -> IntegerDepthwise:
        """The kernel with the tile that suits `target`. `results` has the channels of the shape, or one for all."""
        channels = Channels.cut(shape.oc, QUAD * target.vector.lanes)
        lines, columns = _register_tile(shape, target)
        parallel = target.cores > 1 and shape.flops >= _LEAST_PARALLEL_FLOPS
        order, rows, vectors = "rows", -(-shape.height // (4 * target.cores * lines)) * lines, channels.vectors
        if 8 * shape.taps * shape.oc > target.l1:  # weights are read again and again: one vector's stay in the cache
            order, rows = "channels", -(-shape.height // lines) * lines
            vectors = -(-vectors // (4 * target.cores))
        elif parallel and shape.batch * -(-shape.height // rows) % target.cores:
            vectors = -(-vectors // target.cores)
        if results.channels > 1:
            results = replace(results, channels=channels.places)
        return cls(
            shape=shape,
            results=results,
            channels=channels,
            product=DotProduct.choose(QUAD, target),
            lines=lines,
            columns=columns,
            rows=rows,
            vectors=vectors,
            order=order,
            parallel=parallel,
        )

    def for_weights(self, packed: torch.Tensor) -> IntegerDepthwise:
        """The same kernel with the dot product that suits these weights, which `pack` returned."""
        return replace(self, product=self.product.for_weights(packed))

    def operands(self) -> tuple[Operand, ...]:
        return Operand("x", "uint8"), Operand("weight", "int8"), Operand("bias", "int32"), *self.results.operands()

    def extensions(self) -> frozenset[str]:
        return self.product.extensions()

    def flops(self) -> int:
        return self.shape.flops

    def describe(self) -> str:
        tile = f"{self.lines}x{self.columns}x{self.channels.width}"
        return f"{self.name} tile={tile} order={self.order} rows={self.rows} vectors={self.vectors}"

    # how constants are laid out

    @property
    def _shifts(self) -> int:
        """How many outputs side by side read the same pixels, each with its taps moved on by one."""
        fits = self.shape.stride[1] == self.shape.dilation[1] and self.shape.kernel[1] % QUAD != 0
        return 2 if fits and self.columns > 1 else 1

    @property
    def _quads(self) -> int:
        """How many times four taps a row of the kernel has."""
        return -(-self.shape.kernel[1] // QUAD)

    @property
    def _row_bytes(self) -> int:
        """Bytes of packed weights of one channel for one row of the kernel."""
        return self._shifts * self._quads * QUAD

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay out the int8 `weight` [channels, 1, kh, kw] as this kernel reads it, flat.

        That is [vector of channels][kh][shift][four taps][channel as unpacked][tap].
        """
        expected = (self.shape.oc, 1, *self.shape.kernel)
        if tuple(weight.shape) != expected:
            raise ValueError(f"weight must have shape {expected}, not {tuple(weight.shape)}")
        taps = self.shape.kernel[1]
        padded = weight.new_zeros(self.shape.oc, self.shape.kernel[0], self._shifts, self._quads * QUAD)
        for shift in range(self._shifts):
            padded[:, :, shift, shift : shift + taps] = weight[:, 0]
        parts = self.channels.parts(padded.reshape(*padded.shape[:-1], self._quads, QUAD))
        return torch.cat([unpacked_order(part).permute(1, 2, 3, 0, 4).flatten() for part in parts])

    def spread(self, values: torch.Tensor, *, sums: bool) -> torch.Tensor:
        """Lay out one number a channel as this kernel reads it: with `sums` what is added to them, else factors.

        Channels are in the last dimension; one factor for all of them stays as it is.
        """
        if values.shape[-1] == 1 and self.results.channels == 1 and not sums:
            return values
        parts = self.channels.parts(values.movedim(-1, 0))
        turned = sums or self.results.unpacked
        return torch.cat([unpacked_order(part) if turned else part for part in parts]).movedim(0, -1).contiguous()

    # code

    def emit(self, *operands: Access) -> None:
        """Emit the loop over blocks of rows and of vectors of channels."""
        row_blocks = -(-self.shape.height // self.rows)
        parts = -(-self.channels.vectors // self.vectors)
        tasks = self.shape.batch * row_blocks * parts
        loop = B.parallel if self.parallel and tasks > 1 else B.serial
        with loop(tasks) as task:
            n = B.bind(task // (row_blocks * parts))
            rows = B.bind(task // parts % row_blocks)
            first = B.bind(task % parts * self.vectors)

            def tiles(row: Expr, vector: Vector) -> None:
                self._row(operands, n, row, vector)

            if self.order == "rows":
                self._rows(rows, lambda row: self._vectors(first, lambda vector: tiles(row, vector)))
            else:
                self._vectors(first, lambda vector: self._rows(rows, lambda row: tiles(row, vector)))

    def _rows(self, block: Expr, body: Callable[[Expr], None]) -> None:
        """Run `body` on the first row of each register tile; the last is moved back, none begins beyond the image."""
        height, lines = self.shape.height, self.lines
        with B.serial(self.rows // lines) as i:
            row = B.bind(block * self.rows + i * lines)
            if height % self.rows == 0:
                body(row)
                return
            with B.If(row < height), B.Then():
                body(row if height % lines == 0 else B.bind(B.min(row, height - lines)))

    def _vectors(self, first: Expr, body: Callable[[Vector], None]) -> None:
        """Run `body` on the vectors of channels of a task, from `first` on."""
        channels = self.channels
        with B.serial(self.vectors) as i:
            number = B.bind(first + i)
            if not channels.last and channels.full % self.vectors == 0:
                body(channels.vector(number))
                return
            if channels.full:
                with B.If(number < channels.full), B.Then():
                    body(channels.vector(number))
            if channels.last:
                with B.If(number == channels.full), B.Then():
                    body(channels.last_vector())

    def _row(self, operands: Sequence[Access], n: Expr, row: Expr, vector: Vector) -> None:
        """A row of register tiles for one vector of channels; the last is moved back into the image."""
        width, columns = self.shape.width, self.columns
        with B.serial(-(-width // columns)) as i:
            column = i * columns if width % columns == 0 else B.min(i * columns, width - columns)
            self._pixels(operands, n, row, B.bind(column), vector)

    def _pixels(self, operands: Sequence[Access], n: Expr, row: Expr, column: Expr, vector: Vector) -> None:
        """A register tile from pixel (row, column) on, for one vector of channels."""
        lines, columns = self.lines, self.columns
        shape = self.shape
        x, weight, bias, *rest = operands
        x_at, y_at, residual_at = shape.pixel(n, row, column)
        x = x.shifted(x_at + vector.channel)
        weight = weight.shifted(vector.place * (shape.kernel[0] * self._row_bytes))
        sums = Registers(lines * columns * QUAD, vector.lanes, "int32")
        for v in range(QUAD):
            start = B.bind(bias.load(vector.place + v * vector.lanes, vector.lanes))
            for pixel in range(lines * columns):
                sums[pixel * QUAD + v] = start
        if lines == 1 and shape.taps > _MOST_TAPS:
            with B.serial(shape.kernel[0]) as h:
                here = x.shifted(h * (shape.dilation[0] * shape.x_strides[1]))
                self._taps(sums, here, weight.shifted(h * (self._row_bytes * vector.width)), [(0, 0)], vector)
        else:
            uses: dict[int, list[tuple[int, int]]] = {}  # row of x -> the rows of sums and of the kernel that use it
            for line, h in product(range(lines), range(shape.kernel[0])):
                uses.setdefault(line * shape.stride[0] + h * shape.dilation[0], []).append((line, h))
            for place, pairs in sorted(uses.items()):
                self._taps(sums, x.shifted(place * shape.x_strides[1]), weight, pairs, vector)
        places = []
        for line, i in product(range(lines), range(columns)):
            _, y_step, residual_step = shape.pixel(0, line, i)
            places.append((y_at + vector.channel + y_step, residual_at + vector.channel + residual_step))
        Results(self.results, vector.lanes, rest).store_unpacked(sums, vector.place, vector.count, places)

    def _taps(
        self, sums: Registers, x: Access, weight: Access, rows: Sequence[tuple[int, int]], vector: Vector
    ) -> None:
        """Add the products of one row of x with the taps of each (row of sums, row of the kernel) that uses it."""
        dot = replace(self.product, lanes=vector.lanes)
        row = _Row(x, self.shape.x_strides[2], vector)
        for first in range(0, self.columns, self._shifts):
            shifts = range(min(self._shifts, self.columns - first))
            for quad in range(self._quads):
                for v, value in enumerate(row.quads(self._places(first, quad))):
                    left = dot.left(value)
                    for (line, h), shift in product(rows, shifts):
                        at = ((h * self._shifts + shift) * self._quads + quad) * QUAD + v
                        right = dot.right(weight.load(B.int32(at * vector.width), vector.width))
                        slot = (line * self.columns + first + shift) * QUAD + v
                        sums[slot] = dot.add(sums[slot], left, right)

    def _places(self, first: int, quad: int) -> tuple[int, int, int, int]:
        """The pixels of x whose bytes are multiplied together; any will do where there are no taps but zeros."""
        taps, stride, dilation = self.shape.kernel[1], self.shape.stride[1], self.shape.dilation[1]
        last = (self.columns - 1) * stride + (taps - 1) * dilation  # that the tile may read
        a, b, c, d = (first * stride + (quad * QUAD + tap) * dilation for tap in range(QUAD))
        b = b if b <= last else a
        return (a, b, c, d if d <= last else c) if c <= last else (a, b, a, b)


def _register_tile(shape: ConvShape, target: CpuTarget) -> tuple[int, int]:
    """The rows and columns of pixels of the cheapest tile that fits the registers."""
    most = target.vector.registers // 2 // QUAD  # the other half holds pixels and weights
    tall = shape.taps <= _MOST_TAPS

    def fits(lines: int, columns: int) -> bool:
        return lines * columns <= most and lines <= (shape.height if tall else 1) and columns <= shape.width

    def cost(tile: tuple[int, int]) -> float:
        """That of all pixels that are computed, some of them twice."""
        computed = (-(-size // step) * step for size, step in zip((shape.height, shape.width), tile, strict=True))
        return _TILES[tile] * math.prod(computed)

    return min((tile for tile in _TILES if fits(*tile)), key=cost)


class _Row:
    """Pixels of one row of x for one vector of channels, each loaded and unpacked once."""

    def __init__(self, x: Access, step: int, vector: Vector) -> None:
        self._x, self._step, self._vector = x, step, vector
        self._pixels: dict[int, Expr] = {}
        self._pairs: dict[tuple[int, int], tuple[Expr, Expr]] = {}

    def quads(self, places: Sequence[int]) -> list[Expr]:
        """The bytes of the pixels at four places side by side."""
        first, second, third, fourth = places
        return quads(self._pair(first, second), self._pair(third, fourth))

    def _pair(self, first: int, second: int) -> tuple[Expr, Expr]:
        if (first, second) not in self._pairs:
            self._pairs[first, second] = unpack(self._pixel(first), self._pixel(second), "uint8")
        return self._pairs[first, second]

    def _pixel(self, place: int) -> Expr:
        if place not in self._pixels:
            width, count = self._vector.width, self._vector.count
            value = self._x.load(B.int32(place * self._step), width, count=None if count == width else count)
            self._pixels[place] = B.bind(value)
        return self._pixels[place]
