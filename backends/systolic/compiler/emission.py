"""From tiled layers to instructions: for every tile its loads, multiplications, vector work and stores, in plain order.

Nothing here says when anything runs: units run ahead as far as tokens.py lets them, and buffers are rings, so that
loads of the next tiles, and of the next layer's weights, overlap with what is computed now.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..architecture import Memory
from ..instructions import Load, Multiply, Reduce, Store, Vector
from .borders import RowGroup, TapRows, row_groups, tap_rows
from .chip import Chip
from .fetching import Fetching, Source, Tile
from .layers import Convolution, Copy, Layer, Pool, Product
from .packing import PackedWeights
from .retention import Plan, Resident


def emit(chip: Chip, index: int, layer: Layer, packed: PackedWeights | None, plan: Plan) -> None:
    """Append the instructions of a layer; `index` is what they carry as their layer."""
    _Emission(chip, index, layer, packed, plan).run()


class _Emission(Fetching):
    _is_padded = False

    def run(self) -> None:
        layer, tiling = self.layer, self.tiling
        if isinstance(layer, Convolution | Product):
            chunks = -(-len(layer.output.words) // tiling.blocks) * -(-self.source_depth() // tiling.words)
            if chunks * self.chunk_words() <= self.machine.words(Memory.WEIGHTS):
                self.chip.weights.reserve(chunks * self.chunk_words())
        blocks = [
            (n, min(n + tiling.blocks, self.output_blocks())) for n in range(0, self.output_blocks(), tiling.blocks)
        ]
        if tiling.weights_first:
            steps = ((tile, part) for part in blocks for tile in self.tiles())
        else:
            steps = ((tile, part) for tile in self.tiles() for part in blocks)
        for tile, (first, last) in steps:
            match layer:
                case Convolution() | Product():
                    self._array_step(tile, first, last)
                case Copy():
                    self._store(tile, first, last, self.source_tile(tile, first, last).address)
                case Pool():
                    self._pool(tile, first, last)
                case _:
                    self._pointwise(tile, first, last)

    def _pad(self, kept: Resident) -> None:
        """Fill the border of a value that stays on the chip, once."""
        border = [] if self._is_padded else kept.border()
        self._is_padded = True
        for address, words in border:
            self.add(
                Load(
                    memory=Memory.ACTIVATIONS, destination=address, dram=0, count_x=words, stride_x=0,
                    count_z=1, before_z=1, padding=kept.fill, layer=self.index,
                )
            )  # fmt: skip

    # steps

    def _array_step(self, tile: Tile, first: int, last: int) -> None:
        tiling, layer = self.tiling, self.layer
        sums = self._accumulators(tile.pixels * (last - first))
        groups = [RowGroup(0, tile.rows, ())]
        if self.packed is not None and not self.packed.dense:
            found = self._grouped(tile, first, last, sums, self.packed)
            groups = found if self.window.fill else groups
        else:
            depth = self.source_depth()
            for low in range(0, depth, tiling.words):
                high = min(low + tiling.words, depth)
                source = self.source_tile(tile, low, high)
                weights = self.weight_tile(tile.outer, (first, last), (low, high))
                self._multiply(tile, source, weights, sums, high - low, last - first, low > 0)
        if layer.requantization is None:
            self._store_sums(tile, first, last, sums)
            return
        self._requantize(tile, first, last, sums, groups)

    def _grouped(self, tile: Tile, first: int, last: int, sums: int, packed: PackedWeights) -> list[RowGroup]:
        """Sums of each output block from the words that it reads; how the biases of rows differ after it."""
        low = int(packed.low[first:last].min())
        high = int(packed.low[first:last].max()) + packed.depth
        source = self.source_tile(tile, low, high)
        weights = self.weight_tile(tile.outer, (first, last), (0, packed.depth))
        row_words = self.window.kernel[1] * packed.depth * self.machine.columns
        runs = self._tap_rows(tile, packed.depth)
        step_y, _ = self.steps()
        for n in range(first, last):
            start = source.address + int(packed.low[n]) - low
            block = weights + (n - first) * self.window.kernel[0] * row_words
            plane = sums + (n - first) * tile.pixels
            for run in runs:
                part = replace(tile, row=tile.row + run.low, rows=run.high - run.low)
                moved = (run.low * step_y + run.first * self.window.dilation[0]) * source.row
                self._multiply(
                    part, replace(source, address=start + moved), block + run.first * row_words,
                    plane + run.low * tile.columns, packed.depth, 1, run is not runs[0], taps=run.last - run.first,
                )  # fmt: skip
        return row_groups(runs, tile.rows, self.window.kernel[0])

    def _tap_rows(self, tile: Tile, depth: int) -> list[TapRows]:
        """The window rows to multiply for each row of a tile: without those in the padding, where that is quicker."""
        window = self.window
        whole = [TapRows(0, window.kernel[0], 0, tile.rows)]
        if (self.layer.requantization is None and window.fill) or window.kernel[0] == 1:
            return whole
        runs = tap_rows(window, tile.row, tile.rows, self.layer.source.axes[-2].count)

        def cycles(some: list[TapRows]) -> int:
            return sum(
                Multiply(
                    ky=run.last - run.first, kx=window.kernel[1], blocks=depth, stationary=self.tiling.stationary,
                    pixels=(run.high - run.low) * tile.columns,
                ).issue_cycles(self.machine)
                for run in some
            )  # fmt: skip

        return runs if cycles(runs) < cycles(whole) else whole

    def _multiply(
        self,
        tile: Tile,
        source: Source,
        weights: int,
        sums: int,
        depth: int,
        outputs: int,
        accumulate: bool,
        *,
        taps: int | None = None,
    ) -> None:
        """`depth` words of each source pixel are multiplied, with all or so many `taps` rows of the window."""
        (ky, kx), (dy, dx) = self.window.kernel, self.window.dilation
        step_y, step_x = self.steps()
        self.add(
            Multiply(
                activation=source.address, weight=weights, accumulator=sums, ky=ky if taps is None else taps, kx=kx,
                blocks=depth, stride_ky=dy * source.row, stride_kx=dx * source.pixel, width=tile.columns,
                stride_pixel=step_x * source.pixel, stride_row=step_y * source.row,
                pixels=tile.pixels, outputs=outputs, stride_output=tile.pixels, accumulate=accumulate,
                stationary=self.tiling.stationary, layer=self.index,
            )
        )  # fmt: skip

    def _accumulators(self, words: int) -> int:
        """The address of banks for so many sums."""
        bank = self.machine.bank_words(Memory.ACCUMULATORS)
        position, _ = self.chip.sums.place(object(), -(-words // bank))
        return position * bank

    def _requantize(self, tile: Tile, first: int, last: int, sums: int, groups: list[RowGroup]) -> None:
        """From sums to bytes, rows that need biases of their own apart."""
        kept = self.plan.output
        if kept is not None:
            self._requantize_kept(tile, first, last, sums, groups, kept)
            return
        residual, output = self._operands(tile, first, last)
        for group in groups:
            begin, pixels = group.low * tile.columns, (group.high - group.low) * tile.columns
            target = output + begin * (last - first)
            self._requantize_run(tile, first, last, sums, residual, group, begin, pixels, target)
        self._store(tile, first, last, output)

    def _requantize_kept(
        self, tile: Tile, first: int, last: int, sums: int, groups: list[RowGroup], kept: Resident
    ) -> None:
        """The same into the whole value on the chip, row by row where it has a border; to DRAM if others read it."""
        residual = self.residual_tile(tile, first, last) if self.layer.residual is not None else 0
        self.parameters(first, last, groups[0].skipped)
        self._pad(kept)  # behind the loads that the first tile waits for
        for group in groups:
            for row in range(group.low, group.high) if tile.columns < self.layer.columns else (group.low,):
                begin, rows = row * tile.columns, 1 if tile.columns < self.layer.columns else group.high - group.low
                index = (tile.row + row) * self.layer.columns + tile.column
                for start, pixels in kept.segments(index, rows * tile.columns):
                    place = kept.pixel(start) + first
                    offset = begin + start - index
                    self._requantize_run(tile, first, last, sums, residual, group, offset, pixels, place)
                    if self.plan.stored:
                        self._store_run(tile, first, last, place, start, pixels)

    def _requantize_run(
        self, tile: Tile, first: int, last: int, sums: int, residual: int, group: RowGroup, begin: int, pixels: int,
        output: int,
    ) -> None:  # fmt: skip
        """`pixels` of a tile from `begin` on."""
        blocks = last - first
        if self.layer.residual is not None:
            residual += begin * blocks
        kept = self.plan.output
        self._vector(
            source=Memory.ACCUMULATORS, input=sums + begin, output=output, residual_input=residual,
            parameter=self.parameters(first, last, group.skipped), pixels=pixels, blocks=blocks,
            width=pixels, stride_pixel=1, stride_block=tile.pixels,
            output_stride_pixel=blocks if kept is None else kept.words,
        )  # fmt: skip

    def _pointwise(self, tile: Tile, first: int, last: int) -> None:
        """Every element by itself: all words of a tile are pixels of one block."""
        source = self.source_tile(tile, first, last)
        residual, output = self._operands(tile, first, last)
        words = tile.pixels * (last - first)
        parameter = self.parameters(0, 1) if self.layer.requantization is not None else 0
        self._vector(
            source=Memory.ACTIVATIONS, input=source.address, output=output, residual_input=residual,
            parameter=parameter,
            pixels=words, width=words, blocks=1, stride_pixel=1,
        )  # fmt: skip
        self._store(tile, first, last, output)

    def _pool(self, tile: Tile, first: int, last: int) -> None:
        source = self.source_tile(tile, first, last)
        _, output = self._operands(tile, first, last)
        blocks = last - first
        (ky, kx), (dy, dx) = self.window.kernel, self.window.dilation
        step_y, step_x = self.steps()
        parameter = self.parameters(first, last) if self.layer.requantization is not None else 0
        self._vector(
            source=Memory.ACTIVATIONS, input=source.address, output=output, parameter=parameter,
            pixels=tile.pixels, width=tile.columns, blocks=blocks, ky=ky, kx=kx, stride_block=1,
            stride_ky=dy * source.row, stride_kx=dx * source.pixel,
            stride_pixel=step_x * source.pixel, stride_row=step_y * source.row,
        )  # fmt: skip
        self._store(tile, first, last, output)

    def _operands(self, tile: Tile, first: int, last: int) -> tuple[int, int]:
        """Where the residual of a tile is, and where its results go."""
        residual = self.residual_tile(tile, first, last) if self.layer.residual is not None else 0
        output, _ = self.outputs.place(next(self.count), tile.pixels * (last - first))
        return residual, output

    def _vector(self, *, blocks: int, **fields: Any) -> None:
        """VECTOR of so many blocks, with what is the same for all tiles of the layer."""
        layer = self.layer
        requantization = layer.requantization
        constants = {}
        if requantization is not None:
            constants = {name: getattr(requantization, name) for name in ("zero", "low", "high", "residual_zero")}
        maximum = (isinstance(layer, Pool) and layer.maximum) or requantization is None
        table = self.chip.table(self.index, layer.table) if layer.table is not None else 0
        self.add(
            Vector(
                blocks=blocks, **({"output_stride_pixel": blocks} | fields),
                residual_stride_pixel=blocks if layer.residual is not None else 0,
                reduce=Reduce.MAX if maximum else Reduce.SUM, requantize=requantization is not None,
                add_residual=layer.residual is not None, use_table=layer.table is not None, table=table,
                layer=self.index, **constants,
            )
        )  # fmt: skip

    def _store(self, tile: Tile, first: int, last: int, source: int) -> None:
        output, blocks = self.layer.output, last - first
        height, width = output.axes[-2], output.axes[-1]
        dram = self.pixel_start(output, tile.outer) + tile.row * height.stride + tile.column * width.stride
        self.add(
            Store(
                memory=Memory.ACTIVATIONS, source=source, dram=dram + int(output.words[first]), layer=self.index,
                count_x=blocks, stride_x=1, count_y=tile.columns, stride_y=width.stride, source_stride_y=blocks,
                count_z=tile.rows, stride_z=height.stride, source_stride_z=tile.columns * blocks,
            )
        )  # fmt: skip

    def _store_run(self, tile: Tile, first: int, last: int, source: int, index: int, pixels: int) -> None:
        """Store `pixels` of a value that stays on the chip, the first one being pixel `index` row by row."""
        output, kept = self.layer.output, self.plan.output
        assert kept is not None
        dram = self.pixel_start(output, tile.outer) + index * output.axes[-1].stride
        self.add(
            Store(
                memory=Memory.ACTIVATIONS, source=source, dram=dram + int(output.words[first]), layer=self.index,
                count_x=last - first, count_y=pixels, stride_y=output.axes[-1].stride, source_stride_y=kept.words,
            )
        )  # fmt: skip

    def _store_sums(self, tile: Tile, first: int, last: int, source: int) -> None:
        output = self.layer.output
        height, width = output.axes[-2], output.axes[-1]
        dram = self.pixel_start(output, tile.outer) + tile.row * height.stride + tile.column * width.stride
        self.add(
            Store(
                memory=Memory.ACCUMULATORS, source=source, dram=dram + 4 * first, layer=self.index,
                count_x=tile.columns, stride_x=width.stride,
                count_y=tile.rows, stride_y=height.stride, source_stride_y=tile.columns,
                count_z=last - first, stride_z=4, source_stride_z=tile.pixels,
            )
        )  # fmt: skip
