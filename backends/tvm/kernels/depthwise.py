"""Depthwise convolution: a few rows of output pixels in registers, vectorised over channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Registers
from .conv_shape import ConvKernel, ConvShape, Epilogue, load_first
from .tiles import DepthwiseTile, choose_depthwise_tile

_MOST_TAPS = 7  # taps of a kernel row whose weights are held in registers together


@dataclass(frozen=True)
class DepthwiseConv(ConvKernel):
    """Convolution of each channel on its own (groups == ic == oc), in one or two dimensions.

    An element of x is loaded once for all the taps of a register tile that use it. The weight operand is what `pack`
    returns.
    """

    tile: DepthwiseTile

    name: ClassVar[str] = "depthwise-conv"

    def __post_init__(self) -> None:
        if not self.shape.groups == self.shape.ic == self.shape.oc:
            raise ValueError(f"shape must have groups == ic == oc, not {self.shape}; use DirectConv")

    @classmethod
    def choose(cls, shape: ConvShape, target: CpuTarget) -> DepthwiseConv:
        """The kernel with the tile that suits `target`."""
        return cls(shape, choose_depthwise_tile(shape, target))

    def describe(self) -> str:
        """The register tile and block."""
        return f"{self.name} {self.tile.text()}"

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay out `weight` [channels, 1, kh, kw] as this kernel reads it: [kh, kw, channels], flat."""
        expected = (self.shape.oc, 1, *self.shape.kernel)
        if tuple(weight.shape) != expected:
            raise ValueError(f"weight must have shape {expected}, not {tuple(weight.shape)}")
        return weight.permute(2, 3, 0, 1).reshape(-1).contiguous()

    def emit(self, *operands: Access) -> None:
        """Emit the parallel loop over blocks of rows and blocks of channels."""
        shape, tile = self.shape, self.tile
        row_blocks = -(-shape.height // tile.rows)
        vectors = -(-shape.oc // tile.lanes)
        channel_blocks = -(-vectors // tile.vectors)
        tasks = shape.batch * row_blocks * channel_blocks
        loop = B.parallel if tile.parallel and tasks > 1 else B.serial
        with loop(tasks) as task:
            n = B.bind(task // (row_blocks * channel_blocks))
            rows = B.bind(task // channel_blocks % row_blocks)
            first = B.bind(task % channel_blocks * tile.vectors)
            with B.serial(tile.rows // tile.lines) as i:
                row = B.bind(rows * tile.rows + i * tile.lines)
                self._rows(operands, n, row, first)

    def _rows(self, operands: tuple[Access, ...], n: Expr, row: Expr, first: Expr) -> None:
        """The rows of pixels of one register tile: fewer at the end of the image, none beyond it."""
        height, lines = self.shape.height, self.tile.lines
        rest = height % lines
        if height % self.tile.rows == 0:
            self._row(operands, n, row, lines, first)
            return
        with B.If(row + lines <= height), B.Then():
            self._row(operands, n, row, lines, first)
        if rest:
            with B.If(row == height - rest), B.Then():
                self._row(operands, n, row, rest, first)

    def _row(self, operands: tuple[Access, ...], n: Expr, row: Expr, lines: int, first: Expr) -> None:
        """`lines` rows of pixels for the vectors of channels from `first` on."""
        width, columns = self.shape.width, self.tile.columns
        if width > columns:
            with B.serial(width // columns) as i:
                self._vectors(operands, n, row, lines, B.bind(i * columns), columns, first)
        elif width == columns:
            self._vectors(operands, n, row, lines, B.int32(0), columns, first)
        if width % columns:
            self._vectors(operands, n, row, lines, B.int32(width // columns * columns), width % columns, first)

    def _vectors(
        self,
        operands: tuple[Access, ...],
        n: Expr,
        row: Expr,
        lines: int,
        column: Expr,
        columns: int,
        first: Expr,
    ) -> None:
        shape, tile = self.shape, self.tile
        full, rest = divmod(shape.oc, tile.lanes)
        vectors = full + (rest > 0)
        with B.serial(tile.vectors) as i:
            vector = B.bind(first + i)
            if rest == 0 and vectors % tile.vectors == 0:
                self._pixels(operands, n, row, lines, column, columns, vector, tile.lanes)
                return
            if full:
                with B.If(vector < full), B.Then():
                    self._pixels(operands, n, row, lines, column, columns, vector, tile.lanes)
            if rest:
                with B.If(vector == full), B.Then():
                    self._pixels(operands, n, row, lines, column, columns, vector, rest)

    def _pixels(
        self,
        operands: tuple[Access, ...],
        n: Expr,
        row: Expr,
        lines: int,
        column: Expr,
        columns: int,
        vector: Expr,
        count: int,
    ) -> None:
        """`lines` rows of `columns` pixels from (row, column) on, for the first `count` channels of `vector`."""
        shape, lanes = self.shape, self.tile.lanes
        x, weight, bias, *residual, y = operands
        channel = B.bind(vector * lanes)
        x_at, y_at, residual_at = shape.pixel(n, row, column)
        x, y_at, residual_at = x.shifted(x_at + channel), B.bind(y_at + channel), B.bind(residual_at + channel)
        weight = weight.shifted(channel)
        sums = Registers(lines * columns, lanes)
        start = B.bind(load_first(bias, channel, lanes, count))
        for slot in range(lines * columns):
            sums[slot] = start
        kernel_h, kernel_w = shape.kernel
        chunks = [range(tap, min(tap + _MOST_TAPS, kernel_w)) for tap in range(0, kernel_w, _MOST_TAPS)]
        if lines == 1:
            with B.serial(kernel_h) as h:
                here = x.shifted(h * (shape.dilation[0] * shape.x_strides[1]))
                for taps in chunks:
                    self._taps(sums, here, weight, [(0, h)], taps, columns, count)
        else:
            uses: dict[int, list[tuple[int, int]]] = {}  # row of x -> the rows of sums and of the kernel that use it
            for line, h in product(range(lines), range(kernel_h)):
                uses.setdefault(line * shape.stride[0] + h * shape.dilation[0], []).append((line, h))
            for place, pairs in sorted(uses.items()):
                for taps in chunks:
                    self._taps(sums, x.shifted(place * shape.x_strides[1]), weight, pairs, taps, columns, count)
        finish = Epilogue(shape, residual[0] if residual else None, y)
        for line, i in product(range(lines), range(columns)):
            _, y_step, residual_step = shape.pixel(0, line, i)
            finish(sums[line * columns + i], y_at + y_step, residual_at + residual_step, lanes, count)

    def _taps(
        self,
        sums: Registers,
        x: Access,
        weight: Access,
        rows: Sequence[tuple[int, Expr]],
        taps: range,
        columns: int,
        count: int,
    ) -> None:
        """Add the products of one row of x with some taps of each (row of sums, row of the kernel) that uses it."""
        shape, lanes = self.shape, self.tile.lanes
        weights = {
            (line, tap): B.bind(load_first(weight, (h * shape.kernel[1] + tap) * shape.oc, lanes, count))
            for line, h in rows
            for tap in taps
        }
        uses: dict[int, list[tuple[int, int]]] = {}
        for i, tap in product(range(columns), taps):
            uses.setdefault(i * shape.stride[1] + tap * shape.dilation[1], []).append((i, tap))
        for place, pairs in sorted(uses.items()):
            value = B.bind(load_first(x, place * shape.x_strides[2], lanes, count))
            for i, tap in pairs:
                for line, _ in rows:
                    slot = line * columns + i
                    sums[slot] = sums[slot] + value * weights[line, tap]
