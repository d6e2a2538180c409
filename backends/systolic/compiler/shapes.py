"""What the tiling of a layer depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .layers import Convolution, Layer, Pointwise, Pool, Product, Window
from .packing import PackedWeights


@dataclass(frozen=True)
class Shape:
    """What the time of a layer depends on: pixels of results, words of channels, the window, what else is read.

    `words` are read of each source pixel, by each output block `depth` of them (fewer than all for groups). `taps` are
    of the array; a layer without the array has none. `sums` are stored as int32. `reserved` activation words hold
    values that stay on the chip: the source if `source_kept`, the results if `output_kept`, which go to DRAM only if
    `stored`. Kept results that have a border are written in runs of at most `run` pixels.
    """

    outer: int
    rows: int
    columns: int
    words: int
    blocks: int
    window: Window
    depth: int
    array: bool
    grouped: bool = False
    residual: bool = False
    records: bool = True
    sums: bool = False
    fresh_weights: bool = False  # each outer index has weights of its own
    reserved: int = 0
    source_kept: bool = False
    output_kept: bool = False
    stored: bool = True
    run: int = 0


def shape_of(layer: Layer, packed: PackedWeights | None, columns: int) -> Shape:
    """What tiling needs to know of a layer."""
    window = layer.window if isinstance(layer, Convolution | Pool) else Window()
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
