"""Values that stay on the chip from the layer that makes them to the next one, which reads them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..architecture import Architecture, Memory
from .layers import Convolution, Layer, Product
from .packing import PackedWeights
from .shapes import shape_of
from .tiling import TOLERANCE, Tiling, require, tile
from .views import Buffer, Operand


@dataclass(frozen=True)
class Resident:
    """A whole value in the activation memory: [row][column][word] from `base` on, with a border of padding.

    `padding` is (top, bottom, left, right), of bytes `fill`. `reserved` words are kept, whole banks if they can be.
    """

    rows: int
    columns: int
    words: int
    padding: tuple[int, int, int, int]
    fill: int
    base: int = 0
    reserved: int = 0

    @property
    def row_words(self) -> int:
        """Words from one row to the next."""
        return (self.columns + self.padding[2] + self.padding[3]) * self.words

    @property
    def size(self) -> int:
        """Words in all."""
        return (self.rows + self.padding[0] + self.padding[1]) * self.row_words

    def pixel(self, index: int) -> int:
        """The address of a pixel, counted row by row without the border."""
        row, column = divmod(index, self.columns)
        return self.base + (row + self.padding[0]) * self.row_words + (column + self.padding[2]) * self.words

    def segments(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """`count` pixels from `first` on in runs (first, count) that lie one after another."""
        bordered = self.padding[2] + self.padding[3] > 0
        while count:
            some = min(count, self.columns - first % self.columns) if bordered else count
            yield first, some
            first, count = first + some, count - some

    def border(self) -> Iterator[tuple[int, int]]:
        """Runs (address, words) that make up the border."""
        top, _, left, _ = self.padding
        start = self.base
        for row in range(self.rows):
            data = self.base + (top + row) * self.row_words + left * self.words
            if data > start:
                yield start, data - start
            start = data + self.columns * self.words
        end = self.base + self.size
        if end > start:
            yield start, end - start


@dataclass(frozen=True)
class Plan:
    """How a layer is tiled, and whether it reads and leaves a whole value on the chip; `stored` if also in DRAM."""

    tiling: Tiling
    source: Resident | None = None
    output: Resident | None = None
    stored: bool = True


def plan(
    layers: Sequence[Layer],
    packed: Sequence[PackedWeights | None],
    architecture: Architecture,
    results: Collection[Buffer],
) -> list[Plan]:
    """Tilings for all layers. A value stays on the chip where that fits, and costs no time, from layer to layer.

    Raises Unsupported for a layer that does not fit.
    """
    plans: list[Plan] = []
    source: Resident | None = None
    for index, layer in enumerate(layers):
        following = layers[index + 1] if index + 1 < len(layers) else None
        plain = _tiled(layer, packed[index], architecture, source, None, True)
        candidate = None if following is None else between(layer, following)
        if following is None or candidate is None or isinstance(plain, str):
            plans.append(Plan(require(plain, layer.name, layer.where), source))
            source = None
            continue
        output = _settled(candidate, source, architecture)
        stored = layer.output.buffer in results or _others(layers, index)
        kept = _tiled(layer, packed[index], architecture, source, output, stored)
        then = _tiled(following, packed[index + 1], architecture, output, None, True)
        alone = _tiled(following, packed[index + 1], architecture, None, None, True)
        if isinstance(kept, str) or isinstance(then, str) or not _is_better((kept, then), (plain, alone)):
            plans.append(Plan(plain, source))
            source = None
            continue
        plans.append(Plan(kept, source, output, stored))
        source = output
    return plans


def _is_better(kept: tuple[Tiling, Tiling], apart: tuple[Tiling, Tiling | str]) -> bool:
    """Whether a value that stays saves DRAM words and, as far as the model tells, costs no time."""
    first, second = apart
    if isinstance(second, str):
        return True
    cycles, before = (pair[0].cycles + pair[1].cycles for pair in (kept, (first, second)))
    words = kept[0].dram_words + kept[1].dram_words
    return cycles <= before + before // TOLERANCE and words < first.dram_words + second.dram_words


def between(maker: Layer, reader: Layer) -> Resident | None:
    """The value that `maker` could leave on the chip for `reader`, which reads all of it; None when it cannot."""
    if not isinstance(maker, Convolution | Product) or maker.requantization is None:
        return None
    if not isinstance(reader, Convolution) or reader.source.buffer is not maker.output.buffer:
        return None
    made, read = maker.output, reader.source
    if made.base != read.base or not np.array_equal(made.words, read.words) or not made.whole:
        return None
    if _row_major(made) is None or _row_major(made) != _row_major(read):
        return None
    height, width = read.axes[-2:]
    window = reader.window
    return Resident(height.count, width.count, len(read.words), window.padding, window.fill)


def _row_major(operand: Operand) -> tuple[int, int] | None:
    """How many pixels, and the words from one to the next, when they lie row by row without gaps."""
    height, width = operand.axes[-2:]
    if math.prod(axis.count for axis in operand.axes[:-2]) != 1:
        return None
    if height.count > 1 and height.stride != width.count * width.stride:
        return None
    return height.count * width.count, width.stride


def _others(layers: Sequence[Layer], index: int) -> bool:
    """Whether anything but the source of the next layer reads what layer `index` makes."""
    buffer, following = layers[index].output.buffer, layers[index + 1]
    readers = [x for layer in layers for x in layer.operands if x.buffer is buffer and x is not following.source]
    return bool(readers)


def _settled(value: Resident, source: Resident | None, architecture: Architecture) -> Resident:
    """The value at the end of the memory where the source is not, in whole banks if they leave room."""
    words, bank = architecture.words(Memory.ACTIVATIONS), architecture.bank_words(Memory.ACTIVATIONS)
    other = 0 if source is None else source.reserved
    rounded = -(-value.size // bank) * bank
    reserved = rounded if rounded + other < words else value.size
    base = words - reserved if source is not None and source.base == 0 else 0
    return replace(value, base=base, reserved=reserved)


def _tiled(
    layer: Layer,
    packed: PackedWeights | None,
    architecture: Architecture,
    source: Resident | None,
    output: Resident | None,
    stored: bool,
) -> Tiling | str:
    reserved = sum(value.reserved for value in (source, output) if value is not None)
    if reserved >= architecture.words(Memory.ACTIVATIONS):
        return "what stays on the chip leaves no room"
    run = 0 if output is None or not any(output.padding[2:]) else output.columns
    shape = replace(
        shape_of(layer, packed, architecture.columns),
        reserved=reserved, source_kept=source is not None, output_kept=output is not None, stored=stored, run=run,
    )  # fmt: skip
    return tile(shape, architecture)
