"""What a tile needs on the chip: its source, residual, weights and records, loaded when they are not there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..architecture import RECORD_WORDS, Memory
from ..instructions import Instruction, Load
from .borders import skipped_sums
from .chip import Chip
from .layers import Convolution, Layer, Pointwise, Pool, Product, Window
from .nests import Level, load_nest, padded
from .packing import PackedWeights, records
from .retention import Plan
from .rings import Ring
from .views import Operand

POINT = Window()


@dataclass(frozen=True)
class Tile:
    """Result pixels that are computed together: an index of each outer axis, and ranges of rows and of columns."""

    outer: tuple[int, ...]
    row: int
    rows: int
    column: int
    columns: int

    @property
    def pixels(self) -> int:
        """How many pixels."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Source:
    """A source tile on the chip: the address of its first pixel, and words from one row, and from one pixel, on."""

    address: int
    row: int
    pixel: int


class Fetching:
    """A layer with its plan, and where its tiles are on the chip."""

    def __init__(self, chip: Chip, index: int, layer: Layer, packed: PackedWeights | None, plan: Plan) -> None:
        self.chip, self.index, self.layer, self.packed, self.plan = chip, index, layer, packed, plan
        self.machine, self.tiling = chip.architecture, plan.tiling
        low, high = 0, self.machine.words(Memory.ACTIVATIONS)
        for kept in (plan.source, plan.output):
            if kept is not None:
                low, high = (kept.reserved, high) if kept.base == 0 else (low, kept.base)
        output = high - plan.tiling.output_words
        residual = output - plan.tiling.residual_words
        self.sources, self.residuals, self.outputs = Ring(low, residual), Ring(residual, output), Ring(output, high)
        self.window = layer.window if isinstance(layer, Convolution | Pool) else POINT
        self._addresses: dict[tuple[int, int], int] = {}
        self.count = itertools.count()
        self._records: dict[tuple[int, ...], int] = {}

    # tiles

    def output_blocks(self) -> int:
        return len(self.layer.output.words)

    def source_depth(self) -> int:
        """Words of a source pixel that are summed in parts."""
        if isinstance(self.layer, Product):
            return -(-self.layer.depth // self.machine.columns)
        return len(self.layer.source.words)

    def chunk_words(self) -> int:
        depth = self.packed.depth if self.packed is not None and not self.packed.dense else self.tiling.words
        return self.tiling.blocks * self.window.taps * depth * self.machine.columns

    def tiles(self) -> Iterator[Tile]:
        layer, tiling = self.layer, self.tiling
        for outer in itertools.product(*(range(count) for count in layer.outer)):
            for row in range(0, layer.rows, tiling.rows):
                rows = min(tiling.rows, layer.rows - row)
                for column in range(0, layer.columns, tiling.columns):
                    yield Tile(outer, row, rows, column, min(tiling.columns, layer.columns - column))

    def pixel_start(self, operand: Operand, outer: tuple[int, ...]) -> int:
        """The DRAM word of an operand's first pixel at an index of the outer axes."""
        steps = sum(i * axis.stride for i, axis in zip(outer, operand.axes, strict=False))
        return operand.buffer.address + operand.base + steps

    def add(self, instruction: Instruction) -> None:
        self.chip.instructions.append(instruction)

    # loads

    def reach(self, tile: Tile) -> tuple[int, int]:
        """Source rows and columns that a tile holds of its window's reach."""
        (ky, kx), (sy, sx), (dy, dx) = self.window.kernel, self.window.stride, self.window.dilation
        rows = (tile.rows - 1) * sy + (ky - 1) * dy + 1 if ky > 1 else tile.rows
        columns = (tile.columns - 1) * sx + (kx - 1) * dx + 1 if kx > 1 else tile.columns
        return rows, columns

    def steps(self) -> tuple[int, int]:
        """Source rows and columns on the chip from one result pixel to the next."""
        (ky, kx), (sy, sx) = self.window.kernel, self.window.stride
        if self.plan.source is not None:
            return sy, sx
        return sy if ky > 1 else 1, sx if kx > 1 else 1  # pixels that no point reads are not loaded

    def source_tile(self, tile: Tile, low: int, high: int) -> Source:
        """The source tile with words low..high-1 of each pixel."""
        kept = self.plan.source
        if kept is not None:
            sy, sx = self.window.stride
            start = kept.base + tile.row * sy * kept.row_words + tile.column * sx * kept.words
            return Source(start + low, kept.row_words, kept.words)
        rows, columns = self.reach(tile)
        address, fresh = self.sources.place((tile, low, high), rows * columns * (high - low))
        placed = Source(address, columns * (high - low), high - low)
        if not fresh:
            return placed
        source, window = self.layer.source, self.window
        (ky, kx), (sy, sx) = window.kernel, window.stride
        top, _, left, _ = window.padding
        height, width = source.axes[-2], source.axes[-1]
        step_y, step_x = (1 if ky > 1 else sy), (1 if kx > 1 else sx)
        row, column = tile.row * sy - top, tile.column * sx - left
        dram = self.pixel_start(source, tile.outer) + row * height.stride + column * width.stride
        self._nest(
            address, dram,
            padded(row, rows, step_y, height.count, height.stride),
            padded(column, columns, step_x, width.count, width.stride),
            source.words[low:high], window.fill,
        )  # fmt: skip
        return placed

    def residual_tile(self, tile: Tile, low: int, high: int) -> int:
        """The address of the residual tile with blocks low..high-1 of each pixel."""
        residual = self.layer.residual
        assert residual is not None
        height, width = residual.axes[-2], residual.axes[-1]
        address, _ = self.residuals.place(next(self.count), tile.pixels * (high - low))
        dram = self.pixel_start(residual, tile.outer) + tile.row * height.stride + tile.column * width.stride
        rows, columns = Level(tile.rows, height.stride), Level(tile.columns, width.stride)
        self._nest(address, dram, rows, columns, residual.words[low:high], 0)
        return address

    def _nest(
        self, address: int, dram: int, rows: Level, columns: Level, words: NDArray[np.int64], padding: int
    ) -> None:
        for load in load_nest(Memory.ACTIVATIONS, address, dram, rows, columns, words, padding, self.index):
            self.add(load)

    def _linear(self, memory: Memory, destination: int, dram: int, words: int) -> None:
        width = math.gcd(words, 1 << 15)
        x = (words, 1) if words < 1 << 16 else (width, words // width)
        self.add(
            Load(
                memory=memory, destination=destination, dram=dram, layer=self.index,
                count_x=x[0], count_y=x[1], stride_y=x[0],
            )
        )  # fmt: skip

    def parameters(self, low: int, high: int, skipped: tuple[int, ...] = ()) -> int:
        """The address of the records of output blocks low..high-1, for windows without their rows `skipped`."""
        words = (high - low) * RECORD_WORDS
        address, fresh = self.chip.parameters.place((self.index, low, high, skipped), words)
        if fresh:
            if skipped not in self._records:
                self._records[skipped] = self.chip.image.add(self._record_data(skipped))
            self._linear(Memory.PARAMETERS, address, self._records[skipped] + low * RECORD_WORDS, words)
        return address

    def _record_data(self, skipped: tuple[int, ...]) -> NDArray[np.uint8]:
        layer, columns = self.layer, self.machine.columns
        requantization = layer.requantization
        assert requantization is not None
        if isinstance(layer, Pointwise):
            return records(requantization, np.arange(columns), 1, columns)
        if skipped:
            assert isinstance(layer, Convolution)
            bias = requantization.bias + skipped_sums(layer, skipped)
            requantization = replace(requantization, bias=bias)
        return records(requantization, layer.output.places, len(layer.output.words), columns)

    def weight_tile(self, outer: tuple[int, ...], blocks: tuple[int, int], words: tuple[int, int]) -> int:
        """The address of the weights from source words `words` to output blocks `blocks`."""
        layer, columns = self.layer, self.machine.columns
        if isinstance(layer, Product):
            size = (blocks[1] - blocks[0]) * (words[1] - words[0]) * columns
            address, fresh = self.chip.weights.place((self.index, outer, blocks, words), size)
            if fresh:
                self._product_weights(layer, address, outer, blocks, words)
            return address
        assert self.packed is not None
        data = self.packed.data[blocks[0] : blocks[1]]
        if self.packed.dense:
            data = data[:, :, :, words[0] : words[1]]
        address, fresh = self.chip.weights.place((self.index, blocks, words), data.size // columns)
        if fresh:
            key = (blocks[0], words[0])
            if key not in self._addresses:
                self._addresses[key] = self.chip.image.add(data)
            self._linear(Memory.WEIGHTS, address, self._addresses[key], data.size // columns)
        return address

    def _product_weights(
        self, layer: Product, address: int, outer: tuple[int, ...], blocks: tuple[int, int], words: tuple[int, int]
    ) -> None:
        columns, weights = self.machine.columns, layer.weights
        step = weights.axes[-1].stride
        dram = self.pixel_start(weights, outer)
        depth = words[1] - words[0]
        many = range(*blocks)
        if not layer.transposed:
            rows = min(layer.depth, words[1] * columns) - words[0] * columns
            x = Level(depth * columns, step, 0, depth * columns - rows)
            for n in many:
                start = dram + int(weights.words[n]) + words[0] * columns * step
                self.add(self._load(address + (n - blocks[0]) * depth * columns, start, x, Level(1, 0), False))
            return
        for n in many:
            rows = min(columns, layer.width - n * columns)
            x = Level(columns, step, 0, columns - rows)
            start = dram + n * columns * step + int(weights.words[words[0]])
            for load in self._turned(address + (n - blocks[0]) * depth * columns, start, x, weights, words):
                self.add(load)
        lanes = layer.depth - (words[1] - 1) * columns
        if lanes < columns:  # what lies in unused lanes of the source must not count
            for n in many:
                end = address + (n - blocks[0] + 1) * depth * columns
                self.add(self._load(end - columns + lanes, dram, Level(columns - lanes, 1), Level(1, 0, 1), False))

    def _turned(self, address: int, dram: int, x: Level, weights: Operand, words: tuple[int, int]) -> Iterator[Load]:
        offsets = weights.words[words[0] : words[1]] - weights.words[words[0]]
        steps = np.diff(offsets)
        if not len(steps) or (steps == steps[0]).all():
            step = int(steps[0]) if len(steps) else 0
            yield self._load(address, dram, x, Level(len(offsets), step), True)
            return
        for position, offset in enumerate(offsets.tolist()):
            yield self._load(address + position * self.machine.columns, dram + offset, x, Level(1, 0), True)

    def _load(self, destination: int, dram: int, x: Level, y: Level, transpose: bool) -> Load:
        return Load(
            memory=Memory.WEIGHTS, destination=destination, dram=dram, transpose=transpose, layer=self.index,
            count_x=x.count, stride_x=x.stride, before_x=x.before, after_x=x.after,
            count_y=y.count, stride_y=y.stride, before_y=y.before, after_y=y.after,
        )  # fmt: skip
