"""Direct convolution on numbers of any kind: a register tile of output pixels by output channels, summed over taps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from .base import Access, Expr, Registers
from .conv_shape import ConvKernel, Prefetch
from .gemm import pack_steps
from .tiles import ConvTile

Pixels = Sequence[tuple[int, int]]  # (line, column) of each pixel of a register tile


@dataclass(frozen=True)
class TiledConv(ConvKernel):
    """Convolution in one or two dimensions with any kernel, stride, dilation and groups.

    The weight operand is what `pack` returns. A group is a convolution on a slice of the channels. `step` elements of x
    that lie next to each other are multiplied and summed at once; a run of them that `step` does not divide is read
    beyond its end, by less than `step`.
    """

    tile: ConvTile

    step: ClassVar[int] = 1
    line: ClassVar[int] = 16  # elements of a cache line

    def describe(self) -> str:
        """The register tile, loop order and block."""
        return f"{self.name} {self.tile.text()}"

    @property
    def runs(self) -> tuple[int, int]:
        """Runs of the reduction that lie apart in x: down and across. A row of taps is one where it is contiguous."""
        height, width = self.shape.kernel
        return height, 1 if self._joined else width

    @property
    def rounds(self) -> int:
        """Steps of one run."""
        group = self.shape.ic // self.shape.groups
        return -(-(group * self.shape.kernel[1] if self._joined else group) // self.step)

    @property
    def depth(self) -> int:
        """Weights of one output channel, packed."""
        return self.runs[0] * self.runs[1] * self.rounds * self.step

    @property
    def _joined(self) -> bool:
        shape = self.shape
        return shape.kernel[1] > 1 and shape.groups == 1 and shape.dilation[1] == 1 and shape.x_strides[2] == shape.ic

    @property
    def packed_elements(self) -> int:
        """Size of what `pack` returns, in elements."""
        shape, lanes = self.shape, self.tile.lanes
        return shape.groups * -(-(shape.oc // shape.groups) // lanes) * lanes * self.depth

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay out `weight` [oc, ic / groups, kh, kw] as this kernel reads it; returns a flat tensor.

        Groups outermost, then panels of `tile.vectors` vectors of output channels (the last panel has what is left,
        rounded up to whole vectors with zeros), and inside a panel the steps of [kh, kw, ic / groups].
        """
        width = self.tile.vectors * self.tile.lanes
        panels = [
            pack_steps(panel, self.step).reshape(-1) for runs in self.laid_out(weight) for panel in runs.split(width, 2)
        ]
        return torch.cat(panels)

    def laid_out(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` [oc, ic / groups, kh, kw] as [group, down, across, channel, k], channels in whole vectors."""
        shape, lanes = self.shape, self.tile.lanes
        oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
        if tuple(weight.shape) != (shape.oc, ic, *shape.kernel):
            raise ValueError(f"weight must have shape {(shape.oc, ic, *shape.kernel)}, not {tuple(weight.shape)}")
        padded = weight.new_zeros(shape.groups, -(-oc // lanes) * lanes, ic, *shape.kernel)
        padded[:, :oc] = weight.reshape(shape.groups, oc, ic, *shape.kernel)
        runs = padded.permute(0, 3, 4, 1, 2)
        return runs.transpose(2, 3).flatten(3).unsqueeze(2) if self._joined else runs

    @abstractmethod
    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> TileBody:
        """What emits one panel of output channels of image `n` and group `group`."""

    def emit(self, *operands: Access) -> None:
        """Emit the parallel loop over blocks of pixels and panels of channels."""
        shape, tile = self.shape, self.tile
        panels = tile.panels(shape)
        blocks = tile.blocks(shape)
        outer = shape.batch * shape.groups
        tasks = outer * panels * blocks

        def task(number: Expr) -> None:
            if tile.order == "channels":
                image, panel, block = number // (panels * blocks), number // blocks % panels, number % blocks
            else:
                image, panel, block = number // (panels * blocks), number % panels, number // panels % blocks
            n, group = B.bind(image // shape.groups), B.bind(image % shape.groups)
            panel, block = B.bind(panel), B.bind(block)
            body = self.body(operands, n, group, panel)
            self.at_panel(panel, lambda vectors, count: body.pixels(block, vectors, count))

        if tasks > 1 and tile.parallel:
            with B.parallel(tasks) as number:
                task(number)
        else:
            with B.serial(tasks) as number:
                task(number)

    def at_panel(self, panel: Expr, emit: Callable[[int, int], None]) -> None:
        """Emit what a panel does, given its vectors and the channels in the last of them; the last panel has fewer."""
        tile, panels = self.tile, self.tile.panels(self.shape)
        last = tile.last_panel(self.shape)
        if panels == 1 or last == (tile.vectors, tile.lanes):
            emit(*last)
            return
        with B.If(panel < panels - 1):
            with B.Then():
                emit(tile.vectors, tile.lanes)
            with B.Else():
                emit(*last)


class TileBody(ABC):
    """One task: one panel of output channels for one block of pixel tiles of image `n` and group `group`."""

    residual: Access | None = None
    residual_line = 16  # elements of the residual in a cache line

    def __init__(self, kernel: TiledConv, x: Access, weight: Access, n: Expr, group: Expr, panel: Expr) -> None:
        self.kernel, self.shape, self.tile = kernel, kernel.shape, kernel.tile
        self.weight, self.n = weight, n
        shape, tile = self.shape, self.tile
        oc = shape.oc // shape.groups
        self.first_channel = B.bind(group * oc + panel * (tile.vectors * tile.lanes))
        vectors = -(-oc // tile.lanes)
        self.panel_at = B.bind((group * vectors + panel * tile.vectors) * (kernel.depth * tile.lanes))
        self.x = x.shifted(group * (shape.ic // shape.groups))

    # what kinds of numbers differ in

    @abstractmethod
    def start(self, slots: int, counts: Sequence[int]) -> Registers:
        """The sums before the first product; vector v of a pixel holds `counts[v]` channels."""

    @abstractmethod
    def products(
        self, sums: Registers, x: Access, k: Expr, steps: Sequence[int], weight: Access, at: Expr, vectors: int
    ) -> None:
        """Add one step of products to each sum: pixel p reads x from k + steps[p] on, a row of weights lies at `at`."""

    @abstractmethod
    def conclude(
        self, sums: Registers, counts: Sequence[int], y_at: Expr, residual_at: Expr, places: Sequence[tuple[int, int]]
    ) -> None:
        """Finish and store; `places` holds for each pixel how far it lies from y_at and from residual_at."""

    # what they have in common

    def pixels(self, block: Expr, vectors: int, count: int) -> None:
        """All pixel tiles of `block`, `vectors` vectors of channels wide, the last one holding `count` channels."""
        shape, tile = self.shape, self.tile
        down, across = -(-shape.height // tile.lines), -(-shape.width // tile.columns)
        tiles = down * across
        lines, columns = shape.height % tile.lines or tile.lines, shape.width % tile.columns or tile.columns

        def one(number: Expr) -> None:
            row = B.bind(number // across)
            column = B.bind(number % across)
            if lines == tile.lines and columns == tile.columns:
                self.register_tile(row, column, lines, columns, vectors, count)
                return
            partial = row == down - 1 if columns == tile.columns else column == across - 1
            with B.If(partial):
                with B.Then():
                    self.register_tile(row, column, lines, columns, vectors, count)
                with B.Else():
                    self.register_tile(row, column, tile.lines, tile.columns, vectors, count)

        with B.serial(tile.block) as i:
            number = B.bind(block * tile.block + i)
            self.turn = i if tile.order == "pixels" else number
            if tiles % tile.block == 0:
                one(number)
            else:
                with B.If(number < tiles), B.Then():
                    one(number)

    def register_tile(self, row: Expr, column: Expr, lines: int, columns: int, vectors: int, count: int) -> None:
        """`lines` x `columns` pixels by `vectors` vectors of channels, from the first product to the store."""
        shape, lanes = self.shape, self.tile.lanes
        x_at, y_at, residual_at = shape.pixel(self.n, row * self.tile.lines, column * self.tile.columns)
        x = self.x.shifted(x_at)
        y_at, residual_at = B.bind(y_at + self.first_channel), B.bind(residual_at + self.first_channel)
        pixels = [(line, column) for line in range(lines) for column in range(columns)]
        counts = [lanes] * (vectors - 1) + [count]
        sums = self.start(len(pixels) * vectors, counts)
        self.accumulate(sums, x, pixels, vectors, self.prefetches(pixels, vectors, residual_at))
        self.conclude(sums, counts, y_at, residual_at, [shape.pixel(0, line, column)[1:] for line, column in pixels])

    def prefetches(self, pixels: Pixels, vectors: int, residual_at: Expr) -> list[Prefetch]:
        """What to bring to L2 while the products of a register tile are summed.

        Each register tile that uses a panel of weights asks for its share of the next panel, and for its own part of
        the residual, which would stall its last step.
        """
        shape, tile = self.shape, self.tile
        found = []
        if tile.prefetch:
            panel, line = self.kernel.depth * tile.vectors * tile.lanes, self.kernel.line
            share = -(-panel // (line * (tile.block if tile.order == "pixels" else tile.tiles(shape))))
            first = B.bind(self.panel_at + panel + self.turn * (share * line))
            found.append(Prefetch(share, lambda i: self.weight.prefetch(first + i * line)))
        residual = self.residual
        if residual is not None:
            across = -(-vectors * tile.lanes // self.residual_line)
            columns = len({column for _, column in pixels})

            def ask(i: Expr) -> None:
                pixel = i // across
                _, _, step = shape.pixel(0, pixel // columns, pixel % columns)
                residual.prefetch(residual_at + step + i % across * self.residual_line)

            found.append(Prefetch(len(pixels) * across, ask))
        return found

    def accumulate(
        self, sums: Registers, x: Access, pixels: Pixels, vectors: int, prefetches: Sequence[Prefetch]
    ) -> None:
        """Add the products of every tap and input channel."""
        if self.shape.taps == 0:  # a phase of a transposed convolution that no tap reaches
            return
        with B.serial(self.kernel.runs[0]) as down:
            with B.serial(self.kernel.runs[1]) as across:
                self.run(sums, x, pixels, vectors, prefetches, down, across)

    def run(
        self,
        sums: Registers,
        x: Access,
        pixels: Pixels,
        vectors: int,
        prefetches: Sequence[Prefetch],
        down: Expr,
        across: Expr,
    ) -> None:
        """Add the products of one run of the reduction."""
        shape, kernel, unroll = self.shape, self.kernel, self.tile.unroll
        _, x_h, x_w = shape.x_strides
        steps = [line * shape.stride[0] * x_h + column * shape.stride[1] * x_w for line, column in pixels]
        here = x.shifted(down * (shape.dilation[0] * x_h) + across * (shape.dilation[1] * x_w))
        number = down * kernel.runs[1] + across
        width = vectors * self.tile.lanes * kernel.step
        weight = self.weight.shifted(self.panel_at + number * (kernel.rounds * width))
        loops = kernel.rounds // unroll if kernel.rounds >= 2 * unroll else 0

        def step(k: Expr) -> None:
            self.products(sums, here, k * kernel.step, steps, weight, k * width, vectors)

        def several(first: Expr, count: Expr) -> None:
            with B.serial(count) as round_:
                k = first + round_
                for prefetch in prefetches:
                    prefetch.emit(number * loops + k, kernel.runs[0] * kernel.runs[1] * loops)
                for u in range(unroll):
                    step(k * unroll + u)

        if loops:
            self.loop(loops, several)
        for u in range(loops * unroll, kernel.rounds):
            step(B.int32(u))

    def loop(self, rounds: int, body: Callable[[Expr, Expr], None]) -> None:
        """Run `body(first, count)` on all of `rounds`."""
        body(B.int32(0), rounds)
