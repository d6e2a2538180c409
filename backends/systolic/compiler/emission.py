"""From tiled layers to instructions: for every tile its loads, multiplications, vector work and stores, in plain order.

Nothing here says when anything runs: units run ahead as far as tokens.py lets them, and buffers are rings, so that
loads of the next tiles, and of the next layer's weights, overlap with what is computed now.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..architecture import RECORD_WORDS, Architecture, Memory
from ..instructions import Instruction, Load, Multiply, Reduce, Store, Vector
from .layers import Convolution, Copy, Layer, Pointwise, Pool, Product, Window
from .nests import Level, load_nest, padded
from .packing import PackedWeights, records
from .rings import Ring
from .tiling import Shape, Tiling
from .views import Operand

_POINT = Window()


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


@dataclass
class Image:
    """The constants in DRAM behind the buffers: `start` is the word address of the first one."""

    start: int
    columns: int
    pieces: list[bytes] = field(default_factory=list)
    words: int = 0
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(self, data: NDArray[np.int8] | NDArray[np.uint8]) -> int:
        """Put whole words behind what is there and return their word address."""
        raw = np.ascontiguousarray(data).tobytes()
        address = self.start + self.words
        self.pieces.append(raw)
        self.words += len(raw) // self.columns
        return address

    def shared(self, data: NDArray[np.int8]) -> int:
        """`add`, once for equal data."""
        raw = data.tobytes()
        if raw not in self._known:
            self._known[raw] = self.add(data)
        return self._known[raw]


def shape_of(layer: Layer, packed: PackedWeights | None, columns: int) -> Shape:
    """What tiling needs to know of a layer."""
    window = layer.window if isinstance(layer, Convolution | Pool) else _POINT
    array = isinstance(layer, Convolution | Product)
    words = -(-layer.depth // columns) if isinstance(layer, Product) else len(layer.source.words)
    return Shape(
        outer=math.prod(layer.outer),
        rows=layer.rows,
        columns=layer.columns,
        words=words if array else len(layer.output.words),
        blocks=len(layer.output.words),
        window=Window(window.kernel, window.stride, window.dilation),
        depth=packed.depth if packed is not None else words,
        array=array,
        grouped=packed is not None and not packed.dense,
        residual=layer.residual is not None,
        records=layer.requantization is not None and not isinstance(layer, Pointwise),
        sums=array and layer.requantization is None,
        fresh_weights=isinstance(layer, Product),
    )


class Emitter:
    """Collects the instructions of layers and the constants that they need."""

    def __init__(self, architecture: Architecture, first_constant: int) -> None:
        self.architecture = architecture
        self.image = Image(first_constant, architecture.columns)
        self.instructions: list[Instruction] = []
        self._weights = Ring(0, architecture.words(Memory.WEIGHTS))
        self._parameters = Ring(0, architecture.words(Memory.PARAMETERS))
        self._tables = Ring(0, architecture.tables)
        self._sums = Ring(0, architecture.accumulator_banks)  # counts banks

    def emit(self, index: int, layer: Layer, packed: PackedWeights | None, tiling: Tiling) -> None:
        """Append the instructions of a layer; `index` is what they carry as their layer."""
        _LayerEmitter(self, index, layer, packed, tiling).run()

    def table(self, layer: int, table: NDArray[np.int8]) -> int:
        """The number of the on-chip table that holds these entries, loaded when it is not there."""
        number, fresh = self._tables.place(table.tobytes(), 1)
        if fresh:
            words = self.architecture.table_words
            dram = self.image.shared(table)
            self.instructions.append(
                Load(memory=Memory.TABLES, destination=number, dram=dram, count_x=words, layer=layer)
            )
        return number


class _LayerEmitter:
    def __init__(
        self, emitter: Emitter, index: int, layer: Layer, packed: PackedWeights | None, tiling: Tiling
    ) -> None:
        self.emitter, self.index, self.layer, self.packed, self.tiling = emitter, index, layer, packed, tiling
        self.machine = emitter.architecture
        words = self.machine.words(Memory.ACTIVATIONS)
        output, residual = words - tiling.output_words, words - tiling.output_words - tiling.residual_words
        self.sources, self.residuals, self.outputs = Ring(0, residual), Ring(residual, output), Ring(output, words)
        self.window = layer.window if isinstance(layer, Convolution | Pool) else _POINT
        self._addresses: dict[tuple[int, int], int] = {}
        self._count = itertools.count()
        self._records = -1
        if layer.requantization is not None:
            shared = isinstance(layer, Pointwise)
            blocks = 1 if shared else len(layer.output.words)
            places = np.arange(self.machine.columns) if shared else layer.output.places
            data = records(layer.requantization, places, blocks, self.machine.columns)
            self._records = emitter.image.add(data)

    def run(self) -> None:
        layer, tiling = self.layer, self.tiling
        if isinstance(layer, Convolution | Product):
            chunks = -(-len(layer.output.words) // tiling.blocks) * -(-self._depth() // tiling.words)
            if chunks * self._chunk_words() <= self.machine.words(Memory.WEIGHTS):
                self.emitter._weights.reserve(chunks * self._chunk_words())
        blocks = [(n, min(n + tiling.blocks, self._blocks())) for n in range(0, self._blocks(), tiling.blocks)]
        if tiling.weights_first:
            steps = ((tile, part) for part in blocks for tile in self._tiles())
        else:
            steps = ((tile, part) for tile in self._tiles() for part in blocks)
        for tile, (first, last) in steps:
            match layer:
                case Convolution() | Product():
                    self._array_step(tile, first, last)
                case Copy():
                    address = self._source(tile, first, last)
                    self._store(tile, first, last, address)
                case _:
                    self._vector_step(tile, first, last)

    # tiles

    def _blocks(self) -> int:
        return len(self.layer.output.words)

    def _depth(self) -> int:
        """Words of a source pixel that are summed in parts."""
        if isinstance(self.layer, Product):
            return -(-self.layer.depth // self.machine.columns)
        return len(self.layer.source.words)

    def _chunk_words(self) -> int:
        depth = self.packed.depth if self.packed is not None and not self.packed.dense else self.tiling.words
        return self.tiling.blocks * self.window.taps * depth * self.machine.columns

    def _tiles(self) -> Iterator[Tile]:
        layer, tiling = self.layer, self.tiling
        for outer in itertools.product(*(range(count) for count in layer.outer)):
            for row in range(0, layer.rows, tiling.rows):
                rows = min(tiling.rows, layer.rows - row)
                for column in range(0, layer.columns, tiling.columns):
                    yield Tile(outer, row, rows, column, min(tiling.columns, layer.columns - column))

    def _start(self, operand: Operand, outer: tuple[int, ...]) -> int:
        """The DRAM word of an operand's first pixel at an index of the outer axes."""
        steps = sum(i * axis.stride for i, axis in zip(outer, operand.axes, strict=False))
        return operand.buffer.address + operand.base + steps

    def _add(self, instruction: Instruction) -> None:
        self.emitter.instructions.append(instruction)

    # loads

    def _reach(self, tile: Tile) -> tuple[int, int]:
        """Source rows and columns that a tile holds of its window's reach."""
        (ky, kx), (sy, sx), (dy, dx) = self.window.kernel, self.window.stride, self.window.dilation
        rows = (tile.rows - 1) * sy + (ky - 1) * dy + 1 if ky > 1 else tile.rows
        columns = (tile.columns - 1) * sx + (kx - 1) * dx + 1 if kx > 1 else tile.columns
        return rows, columns

    def _source(self, tile: Tile, low: int, high: int) -> int:
        """The address of the source tile with words low..high-1 of each pixel."""
        key = (tile, low, high)
        rows, columns = self._reach(tile)
        address, fresh = self.sources.place(key, rows * columns * (high - low))
        if not fresh:
            return address
        source, window = self.layer.source, self.window
        (ky, kx), (sy, sx) = window.kernel, window.stride
        top, _, left, _ = window.padding
        height, width = source.axes[-2], source.axes[-1]
        step_y, step_x = (1 if ky > 1 else sy), (1 if kx > 1 else sx)
        row, column = tile.row * sy - top, tile.column * sx - left
        dram = self._start(source, tile.outer) + row * height.stride + column * width.stride
        self._nest(
            address, dram,
            padded(row, rows, step_y, height.count, height.stride),
            padded(column, columns, step_x, width.count, width.stride),
            source.words[low:high], window.fill,
        )  # fmt: skip
        return address

    def _residual(self, tile: Tile, low: int, high: int) -> int:
        """The address of the residual tile with blocks low..high-1 of each pixel."""
        residual = self.layer.residual
        assert residual is not None
        height, width = residual.axes[-2], residual.axes[-1]
        address, _ = self.residuals.place(next(self._count), tile.pixels * (high - low))
        dram = self._start(residual, tile.outer) + tile.row * height.stride + tile.column * width.stride
        rows, columns = Level(tile.rows, height.stride), Level(tile.columns, width.stride)
        self._nest(address, dram, rows, columns, residual.words[low:high], 0)
        return address

    def _nest(
        self, address: int, dram: int, rows: Level, columns: Level, words: NDArray[np.int64], padding: int
    ) -> None:
        for load in load_nest(Memory.ACTIVATIONS, address, dram, rows, columns, words, padding, self.index):
            self._add(load)

    def _linear(self, memory: Memory, destination: int, dram: int, words: int) -> None:
        width = math.gcd(words, 1 << 15)
        x = (words, 1) if words < 1 << 16 else (width, words // width)
        self._add(
            Load(
                memory=memory, destination=destination, dram=dram, layer=self.index,
                count_x=x[0], count_y=x[1], stride_y=x[0],
            )
        )  # fmt: skip

    def _parameters(self, low: int, high: int) -> int:
        """The address of the records of output blocks low..high-1."""
        words = (high - low) * RECORD_WORDS
        address, fresh = self.emitter._parameters.place((self.index, low, high), words)
        if fresh:
            self._linear(Memory.PARAMETERS, address, self._records + low * RECORD_WORDS, words)
        return address

    def _weights(self, outer: tuple[int, ...], blocks: tuple[int, int], words: tuple[int, int]) -> int:
        """The address of the weights from source words `words` to output blocks `blocks`."""
        layer, columns = self.layer, self.machine.columns
        if isinstance(layer, Product):
            size = (blocks[1] - blocks[0]) * (words[1] - words[0]) * columns
            address, fresh = self.emitter._weights.place((self.index, outer, blocks, words), size)
            if fresh:
                self._product_weights(layer, address, outer, blocks, words)
            return address
        assert self.packed is not None
        data = self.packed.data[blocks[0] : blocks[1]]
        if self.packed.dense:
            data = data[:, :, :, words[0] : words[1]]
        address, fresh = self.emitter._weights.place((self.index, blocks, words), data.size // columns)
        if fresh:
            key = (blocks[0], words[0])
            if key not in self._addresses:
                self._addresses[key] = self.emitter.image.add(data)
            self._linear(Memory.WEIGHTS, address, self._addresses[key], data.size // columns)
        return address

    def _product_weights(
        self, layer: Product, address: int, outer: tuple[int, ...], blocks: tuple[int, int], words: tuple[int, int]
    ) -> None:
        columns, weights = self.machine.columns, layer.weights
        step = weights.axes[-1].stride
        dram = self._start(weights, outer)
        depth = words[1] - words[0]
        many = range(*blocks)
        if not layer.transposed:
            rows = min(layer.depth, words[1] * columns) - words[0] * columns
            x = Level(depth * columns, step, 0, depth * columns - rows)
            for n in many:
                start = dram + int(weights.words[n]) + words[0] * columns * step
                self._add(self._load(address + (n - blocks[0]) * depth * columns, start, x, Level(1, 0), False))
            return
        for n in many:
            rows = min(columns, layer.width - n * columns)
            x = Level(columns, step, 0, columns - rows)
            start = dram + n * columns * step + int(weights.words[words[0]])
            for load in self._turned(address + (n - blocks[0]) * depth * columns, start, x, weights, words):
                self._add(load)
        lanes = layer.depth - (words[1] - 1) * columns
        if lanes < columns:  # what lies in unused lanes of the source must not count
            for n in many:
                end = address + (n - blocks[0] + 1) * depth * columns
                self._add(self._load(end - columns + lanes, dram, Level(columns - lanes, 1), Level(1, 0, 1), False))

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

    # steps

    def _array_step(self, tile: Tile, first: int, last: int) -> None:
        tiling, layer = self.tiling, self.layer
        sums = self._accumulators(tile.pixels * (last - first))
        if self.packed is not None and not self.packed.dense:
            self._grouped(tile, first, last, sums, self.packed)
        else:
            depth = self._depth()
            for low in range(0, depth, tiling.words):
                high = min(low + tiling.words, depth)
                source = self._source(tile, low, high)
                weights = self._weights(tile.outer, (first, last), (low, high))
                self._multiply(tile, source, weights, sums, high - low, high - low, last - first, low > 0)
        if layer.requantization is None:
            self._store_sums(tile, first, last, sums)
            return
        self._vector(tile, first, last, Memory.ACCUMULATORS, sums, _POINT)

    def _grouped(self, tile: Tile, first: int, last: int, sums: int, packed: PackedWeights) -> None:
        low = int(packed.low[first:last].min())
        high = int(packed.low[first:last].max()) + packed.depth
        source = self._source(tile, low, high)
        weights = self._weights(tile.outer, (first, last), (0, packed.depth))
        size = self.window.taps * packed.depth * self.machine.columns
        for n in range(first, last):
            position = n - first
            start = source + int(packed.low[n]) - low
            self._multiply(
                tile,
                start,
                weights + position * size,
                sums + position * tile.pixels,
                packed.depth,
                high - low,
                1,
                False,
            )

    def _multiply(
        self, tile: Tile, source: int, weights: int, sums: int, depth: int, words: int, outputs: int, accumulate: bool
    ) -> None:
        """`words` lie from one source pixel to the next, `depth` of them are multiplied."""
        (ky, kx), (sy, sx), (dy, dx) = self.window.kernel, self.window.stride, self.window.dilation
        _, columns = self._reach(tile)
        self._add(
            Multiply(
                activation=source, weight=weights, accumulator=sums, ky=ky, kx=kx, blocks=depth,
                stride_ky=dy * columns * words, stride_kx=dx * words, width=tile.columns,
                stride_pixel=(sx if kx > 1 else 1) * words, stride_row=(sy if ky > 1 else 1) * columns * words,
                pixels=tile.pixels, outputs=outputs, stride_output=tile.pixels, accumulate=accumulate,
                stationary=self.tiling.stationary, layer=self.index,
            )
        )  # fmt: skip

    def _accumulators(self, words: int) -> int:
        """The address of banks for so many sums."""
        bank = self.machine.bank_words(Memory.ACCUMULATORS)
        position, _ = self.emitter._sums.place(object(), -(-words // bank))
        return position * bank

    def _vector_step(self, tile: Tile, first: int, last: int) -> None:
        source = self._source(tile, first, last)
        self._vector(tile, first, last, Memory.ACTIVATIONS, source, self.window)

    def _vector(self, tile: Tile, first: int, last: int, memory: Memory, source: int, window: Window) -> None:
        layer, blocks = self.layer, last - first
        residual = self._residual(tile, first, last) if layer.residual is not None else 0
        requantization = layer.requantization
        shared = isinstance(layer, Pointwise)
        parameter = 0
        if requantization is not None:
            parameter = self._parameters(0, 1) if shared else self._parameters(first, last)
        table = self.emitter.table(self.index, layer.table) if layer.table is not None else 0
        output, _ = self.outputs.place(next(self._count), tile.pixels * blocks)
        (ky, kx), (sy, sx), (dy, dx) = window.kernel, window.stride, window.dilation
        _, columns = self._reach(tile)
        if memory is Memory.ACCUMULATORS:
            levels = {"width": tile.pixels, "stride_pixel": 1, "stride_block": tile.pixels}
        elif shared:
            levels = {"width": tile.pixels * blocks, "stride_pixel": 1}
        else:
            levels = {
                "width": tile.columns, "stride_block": 1, "stride_ky": dy * columns * blocks, "stride_kx": dx * blocks,
                "stride_pixel": (sx if kx > 1 else 1) * blocks,
                "stride_row": (sy if ky > 1 else 1) * columns * blocks,
            }  # fmt: skip
        flat = blocks if shared else 1  # elements do not depend on their channel: all words are one block
        constants = {}
        if requantization is not None:
            constants = {name: getattr(requantization, name) for name in ("zero", "low", "high", "residual_zero")}
        maximum = (isinstance(layer, Pool) and layer.maximum) or requantization is None
        self._add(
            Vector(
                source=memory, input=source, output=output, residual_input=residual, parameter=parameter,
                pixels=tile.pixels * flat, blocks=blocks // flat, ky=ky, kx=kx, **levels,
                residual_stride_pixel=blocks // flat * (layer.residual is not None),
                output_stride_pixel=blocks // flat, reduce=Reduce.MAX if maximum else Reduce.SUM,
                requantize=requantization is not None, add_residual=layer.residual is not None,
                use_table=layer.table is not None, table=table, layer=self.index, **constants,
            )
        )  # fmt: skip
        self._store(tile, first, last, output)

    def _store(self, tile: Tile, first: int, last: int, source: int) -> None:
        output, blocks = self.layer.output, last - first
        height, width = output.axes[-2], output.axes[-1]
        dram = self._start(output, tile.outer) + tile.row * height.stride + tile.column * width.stride
        self._add(
            Store(
                memory=Memory.ACTIVATIONS, source=source, dram=dram + int(output.words[first]), layer=self.index,
                count_x=blocks, stride_x=1, count_y=tile.columns, stride_y=width.stride, source_stride_y=blocks,
                count_z=tile.rows, stride_z=height.stride, source_stride_z=tile.columns * blocks,
            )
        )  # fmt: skip

    def _store_sums(self, tile: Tile, first: int, last: int, source: int) -> None:
        output = self.layer.output
        height, width = output.axes[-2], output.axes[-1]
        dram = self._start(output, tile.outer) + tile.row * height.stride + tile.column * width.stride
        self._add(
            Store(
                memory=Memory.ACCUMULATORS, source=source, dram=dram + 4 * first, layer=self.index,
                count_x=tile.columns, stride_x=width.stride,
                count_y=tile.rows, stride_y=height.stride, source_stride_y=tile.columns,
                count_z=last - first, stride_z=4, source_stride_z=tile.pixels,
            )
        )  # fmt: skip
