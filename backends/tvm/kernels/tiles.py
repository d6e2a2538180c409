"""The analytical model that picks register tiles, loop orders and cache blocks of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ....cpu import CpuTarget
from .conv_shape import ConvShape, bounded_lanes


@dataclass(frozen=True)
class ConvTile:
    """How a direct convolution is cut up.

    A register tile has `lines` x `columns` pixels by `vectors` vectors of `lanes` output channels. `unroll` steps of
    the reduction are written out. A task is one panel (`vectors` vectors of channels) for `block` register tiles;
    `order` says which of panels and blocks varies slower over the tasks: "channels" or "pixels". `prefetch` brings the
    next panel of weights to the second cache while one is used.
    """

    lanes: int
    vectors: int
    columns: int
    lines: int = 1
    unroll: int = 4
    order: str = "pixels"
    block: int = 1
    parallel: bool = True
    prefetch: bool = False

    def tiles(self, shape: ConvShape) -> int:
        """Register tiles of pixels in one image."""
        return -(-shape.height // self.lines) * -(-shape.width // self.columns)

    def blocks(self, shape: ConvShape) -> int:
        """Blocks of pixels in one image."""
        return -(-self.tiles(shape) // self.block)

    def panels(self, shape: ConvShape) -> int:
        """Panels of output channels in one group."""
        return -(-(shape.oc // shape.groups) // (self.vectors * self.lanes))

    def last_panel(self, shape: ConvShape) -> tuple[int, int]:
        """Vectors of the last panel, and the channels in the last of them."""
        channels = shape.oc // shape.groups - (self.panels(shape) - 1) * self.vectors * self.lanes
        vectors = -(-channels // self.lanes)
        return vectors, channels - (vectors - 1) * self.lanes

    def text(self) -> str:
        """The tile in a few words, for reports."""
        return f"{self.register_text()} order={self.order} block={self.block}"

    def register_text(self) -> str:
        """The register tile alone."""
        pixels = f"{self.lines}x{self.columns}" if self.lines > 1 else f"{self.columns}"
        return f"tile={pixels}x{self.vectors}x{self.lanes}"


_WIDTHS = (1, 2, 3, 4)  # vectors of a register tile
_FMA_PER_CYCLE = 2  # vector multiply-adds and vector loads that one core can start in a cycle; a core with one FMA
_LOADS_PER_CYCLE = 2  # port is bound by its multiply-adds with any tile that suits one with two
_FMA_LATENCY = 4
_L2_BYTES_PER_CYCLE = 32
_TILE_CYCLES = 24  # starting a register tile: addresses, loop set-up, the first loads
_LEAST_PARALLEL_FLOPS = 400_000  # under this, starting the threads costs more than they save
_LEAST_TASK_FLOPS = 400_000
_SPARSE_TILE_CYCLES = 120  # the same where steps are read from a list,
_SPARSE_LATENCY = 5  # and loads of x come later than one waits for
_L2_CYCLES = 1.5  # a cache line from L2, most of its latency hidden
_FILL = 0.55  # of the first cache: what x may take without being evicted by weights
_LINE = 64
_PAGE = 4096  # addresses this far apart fall into the same set of the first cache
_WAYS = 8


def choose_conv_tile(
    shape: ConvShape,
    target: CpuTarget,
    widths: Sequence[int] = _WIDTHS,
    share: Callable[[int], float] = lambda channels: 1.0,
) -> ConvTile:
    """The tile that the model predicts to be fastest for `shape` on `target`, of those with `widths` vectors.

    `share(channels)` is that of the steps of the reduction which panels of so many channels make.
    """

    def share_of(tile: ConvTile) -> float:
        return share(tile.vectors * tile.lanes)

    tile = min(_register_tiles(shape, target, widths), key=lambda tile: _cycles(tile, shape, target, share_of(tile)))
    return _blocked(tile, shape, target, share_of(tile))


def _register_tiles(shape: ConvShape, target: CpuTarget, widths: Sequence[int]) -> Iterator[ConvTile]:
    oc = shape.oc // shape.groups
    lanes = bounded_lanes(oc, target.vector.lanes)
    for vectors in widths:
        if vectors > max(widths[0], -(-oc // lanes)):
            continue
        most = (target.vector.registers - 1) // vectors - 1  # the rest hold a row of weights and an input element
        for columns in range(1, min(most, shape.width) + 1):
            yield ConvTile(lanes, vectors, columns)
        for lines in range(2, min(most // shape.width, shape.height) + 1):
            yield ConvTile(lanes, vectors, shape.width, lines)


def _cycles(tile: ConvTile, shape: ConvShape, target: CpuTarget, share: float) -> float:
    """Predicted cycles of one image and group on one core, its data in the second cache, for that share of steps."""
    depth = share * shape.depth
    panels = tile.panels(shape)
    down, last_lines = _split(shape.height, tile.lines)
    across, last_columns = _split(shape.width, tile.columns)
    step = shape.stride[1] * shape.x_strides[2] * 4
    total = 0.0
    start = _TILE_CYCLES if share == 1 else _SPARSE_TILE_CYCLES + _refetch_cycles(tile, shape, target, share)
    for panel_count, vectors in ((panels - 1, tile.vectors), (1, tile.last_panel(shape)[0])):
        bytes_per_step = vectors * tile.lanes * 4
        streamed = bytes_per_step / _L2_BYTES_PER_CYCLE if depth * bytes_per_step > target.l1 // 2 else 0
        for line_count, lines in ((down - 1, tile.lines), (1, last_lines)):
            for column_count, columns in ((across - 1, tile.columns), (1, last_columns)):
                count = panel_count * line_count * column_count
                pixels = lines * columns
                sums = pixels * vectors
                loads = (pixels + vectors + (share < 1)) / _LOADS_PER_CYCLE
                latency = _FMA_LATENCY if share == 1 else _SPARSE_LATENCY / copies_of(sums)
                if columns > _WAYS and step % _PAGE == 0:
                    loads *= 2  # the lines of x that the tile reads evict one another
                cycle = max(sums / _FMA_PER_CYCLE, loads, latency, streamed) + 0.1 * (loads + streamed)
                if lines == 1 and sums > target.vector.registers * 13 // 16:
                    cycle *= 1.05  # the code generator spills a register or two
                total += count * (depth * cycle + start + 2 * sums)
    return total


def copies_of(sums: int) -> int:
    """How many sets of so many sums, used in turns, hide the latency of a multiply-add."""
    return max(1, _FMA_PER_CYCLE * _FMA_LATENCY // sums)


def _refetch_cycles(tile: ConvTile, shape: ConvShape, target: CpuTarget, share: float) -> float:
    """Cycles in which a register tile waits for its part of x, as far as the first cache cannot hold that."""
    (down, across), (kh, kw) = shape.stride, shape.kernel
    lines = (tile.lines - 1) * down + (kh - 1) * shape.dilation[0] + 1
    columns = (tile.columns - 1) * across + (kw - 1) * shape.dilation[1] + 1
    pixels = tile.lines * tile.columns if (kh, kw) == (1, 1) else lines * columns
    size = pixels * shape.ic * 4
    read = size / _LINE * (1 - (1 - share) ** (_LINE // 4))
    return _L2_CYCLES * read * min(1.0, max(0.0, size / target.l1 - _FILL))


def _split(extent: int, step: int) -> tuple[int, int]:
    """How many steps cover `extent`, and the size of the last."""
    count = -(-extent // step)
    return count, extent - (count - 1) * step


def _blocked(tile: ConvTile, shape: ConvShape, target: CpuTarget, share: float) -> ConvTile:
    """Choose order, block and threads: what is larger, weights or input, is read from memory once.

    `share` is that of all steps that are made.
    """
    tiles, panels = tile.tiles(shape), tile.panels(shape)
    images = shape.batch * shape.groups
    read = shape.height * shape.width * shape.stride[0] * shape.stride[1]
    x_bytes = read * (shape.ic // shape.groups) * 4
    weight_bytes = math.ceil(share * panels * tile.vectors * tile.lanes * shape.depth * 4)
    flops = math.ceil(share * shape.flops)
    threads = target.cores if flops >= _LEAST_PARALLEL_FLOPS else 1
    wanted = max(threads, min(4 * threads, flops // _LEAST_TASK_FLOPS)) if threads > 1 else 1
    resident = target.l2 // 2
    if weight_bytes > 2 * x_bytes and x_bytes <= resident:
        order, blocks = "channels", -(-wanted // (images * panels))  # a core reads only its share of the weights
    elif weight_bytes > resident:
        order, blocks = "pixels", -(-x_bytes // resident)
    else:
        reread = -(-x_bytes // (target.l2 // 16))  # every panel of channels reads a block of x again
        order, blocks = "pixels", max(reread, -(-wanted // images))
    if images % threads and (order == "pixels" or panels % threads):
        blocks = -(-blocks // threads) * threads
    block = -(-tiles // min(blocks, tiles))
    prefetch = weight_bytes > target.l1
    return replace(tile, order=order, block=block, parallel=threads > 1, prefetch=prefetch)


@dataclass(frozen=True)
class DepthwiseTile:
    """How a depthwise convolution is cut up.

    A register tile has `lines` rows of `columns` pixels by `lanes` channels. A task is `rows` rows of pixels, a
    multiple of `lines`, by `vectors` vectors of channels, the channels varying fastest inside it.
    """

    lanes: int
    columns: int
    rows: int
    vectors: int
    parallel: bool = True
    lines: int = 1

    def text(self) -> str:
        """The tile in a few words, for reports."""
        return f"tile={self.lines}x{self.columns}x{self.lanes} rows={self.rows} vectors={self.vectors}"


def choose_depthwise_tile(shape: ConvShape, target: CpuTarget) -> DepthwiseTile:
    """The tile that suits `shape` on `target`."""
    lanes = bounded_lanes(shape.oc, target.vector.lanes)
    vectors = -(-shape.oc // lanes)
    # Two rows together read what their windows share once, and need registers for two rows of weights.
    many = target.vector.registers >= 32
    share = shape.stride[0] == shape.dilation[0] == 1 and 3 < shape.kernel[0] <= 7 and shape.height > 1
    lines = 2 if many and share else 1
    columns = 14 if many and shape.kernel[1] > 5 and lines == 1 else 7
    rows = -(-shape.height // (4 * target.cores * lines)) * lines
    parallel = target.cores > 1 and shape.flops >= _LEAST_PARALLEL_FLOPS // 4  # few operations for the bytes they move
    if parallel and shape.batch * -(-shape.height // rows) % target.cores:
        vectors = -(-vectors // target.cores)
    return DepthwiseTile(lanes, min(shape.width, columns), rows, vectors, parallel, lines)
