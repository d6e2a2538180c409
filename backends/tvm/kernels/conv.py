"""Direct convolution: a register tile of output pixels by output channels, summed over taps and input channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from ....target import Target
from .base import Access, Expr, Registers
from .conv_shape import LINE, ConvKernel, ConvShape, Epilogue, Prefetch, load_first
from .gemm import CHUNK, LONGEST, Chunks, zeros
from .tiles import ConvTile, choose_conv_tile


@dataclass(frozen=True)
class DirectConv(ConvKernel):
    """Convolution in one or two dimensions with any kernel, stride, dilation and groups.

    The weight operand is what `pack` returns. A group is a convolution on a slice of the channels.
    """

    tile: ConvTile

    name: ClassVar[str] = "direct-conv"

    @classmethod
    def choose(cls, shape: ConvShape, target: Target) -> DirectConv:
        """The kernel with the tile that the analytical model predicts to be fastest on `target`."""
        shape = shape.flattened()
        return cls(shape, choose_conv_tile(shape, target))

    def describe(self) -> str:
        """The register tile, loop order and block."""
        return f"{self.name} {self.tile.text()}"

    @property
    def packed_elements(self) -> int:
        """Size of what `pack` returns, in floats."""
        shape, lanes = self.shape, self.tile.lanes
        vectors = -(-(shape.oc // shape.groups) // lanes)
        return shape.groups * vectors * lanes * shape.taps * (shape.ic // shape.groups)

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay out `weight` [oc, ic / groups, kh, kw] as this kernel reads it; returns a flat tensor.

        Groups outermost, then panels of `tile.vectors` vectors of output channels (the last panel has what is left,
        rounded up to whole vectors with zeros), and inside a panel [kh, kw, ic / groups, channels of the panel].
        """
        shape, lanes = self.shape, self.tile.lanes
        oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
        if tuple(weight.shape) != (shape.oc, ic, *shape.kernel):
            raise ValueError(f"weight must have shape {(shape.oc, ic, *shape.kernel)}, not {tuple(weight.shape)}")
        vectors = -(-oc // lanes)
        padded = weight.new_zeros(shape.groups, vectors * lanes, ic, *shape.kernel)
        padded[:, :oc] = weight.reshape(shape.groups, oc, ic, *shape.kernel)
        width = self.tile.vectors * lanes
        panels = [
            padded[group, first : first + width].permute(2, 3, 1, 0).reshape(-1)
            for group in range(shape.groups)
            for first in range(0, vectors * lanes, width)
        ]
        return torch.cat(panels)

    def emit(self, *operands: Access) -> None:
        """Emit the parallel loop over blocks of pixels and panels of channels."""
        shape, tile = self.shape, self.tile
        x, weight, bias, *residual, y = operands
        finish = Epilogue(shape, residual[0] if residual else None, y)
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
            body = _Body(self, x, weight, bias, finish, n, group, panel)
            last = tile.last_panel(shape)
            if panels == 1 or last == (tile.vectors, tile.lanes):
                body.pixels(block, *last)
                return
            with B.If(panel < panels - 1):
                with B.Then():
                    body.pixels(block, tile.vectors, tile.lanes)
                with B.Else():
                    body.pixels(block, *last)

        if tasks > 1 and tile.parallel:
            with B.parallel(tasks) as number:
                task(number)
        else:
            with B.serial(tasks) as number:
                task(number)


class _Body:
    """One task: one panel of output channels for one block of pixel tiles of image `n` and group `group`."""

    def __init__(
        self,
        kernel: DirectConv,
        x: Access,
        weight: Access,
        bias: Access,
        finish: Epilogue,
        n: Expr,
        group: Expr,
        panel: Expr,
    ) -> None:
        self.shape, self.tile = kernel.shape, kernel.tile
        self.weight, self.bias, self.finish = weight, bias, finish
        self.n = n
        shape, tile = self.shape, self.tile
        self.ic, oc = shape.ic // shape.groups, shape.oc // shape.groups
        self.first_channel = B.bind(group * oc + panel * (tile.vectors * tile.lanes))
        vectors = -(-oc // tile.lanes)
        depth = shape.taps * self.ic * tile.lanes
        self.panel_at = B.bind((group * vectors + panel * tile.vectors) * depth)
        self.x = x.shifted(group * self.ic)

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
        sums = zeros(len(pixels), vectors, lanes)
        self.accumulate(sums, x, pixels, vectors, self.prefetches(pixels, vectors, residual_at))
        bias = [B.bind(load_first(self.bias, self.first_channel + v * lanes, lanes, counts[v])) for v in range(vectors)]
        for slot in range(len(pixels) * vectors):  # last: a large bias would make every product round more
            sums[slot] = sums[slot] + bias[slot % vectors]
        for p, (line, column) in enumerate(pixels):
            _, y_step, residual_step = shape.pixel(0, line, column)
            for v in range(vectors):
                at = v * lanes
                self.finish(
                    sums[p * vectors + v], y_at + (y_step + at), residual_at + (residual_step + at), lanes, counts[v]
                )

    def prefetches(self, pixels: list[tuple[int, int]], vectors: int, residual_at: Expr) -> list[Prefetch]:
        """What to bring to L2 while the products of a register tile are summed.

        Each register tile that uses a panel of weights asks for its share of the next panel, and for its own part of
        the residual, which would stall its last step.
        """
        shape, tile = self.shape, self.tile
        found = []
        if tile.prefetch:
            panel = shape.taps * self.ic * tile.vectors * tile.lanes
            share = -(-panel // (LINE * (tile.block if tile.order == "pixels" else tile.tiles(shape))))
            first = B.bind(self.panel_at + panel + self.turn * (share * LINE))
            found.append(Prefetch(share, lambda i: self.weight.prefetch(first + i * LINE)))
        residual = self.finish.residual
        if residual is not None:
            across = -(-vectors * tile.lanes // LINE)
            columns = len({column for _, column in pixels})

            def line(i: Expr) -> None:
                pixel = i // across
                _, _, step = shape.pixel(0, pixel // columns, pixel % columns)
                residual.prefetch(residual_at + step + i % across * LINE)

            found.append(Prefetch(len(pixels) * across, line))
        return found

    def accumulate(
        self, sums: Registers, x: Access, pixels: list[tuple[int, int]], vectors: int, prefetches: list[Prefetch]
    ) -> None:
        """Add the products of every tap and input channel. A row of taps is one loop where it is contiguous in x.

        Long sums are made of sums of about `CHUNK` products.
        """
        shape, lanes, unroll = self.shape, self.tile.lanes, self.tile.unroll
        _, x_h, x_w = shape.x_strides
        kernel_h, kernel_w = shape.kernel
        depth = self.ic
        if kernel_w > 1 and shape.groups == 1 and shape.dilation[1] == 1 and x_w == shape.ic:
            depth, kernel_w = depth * kernel_w, 1
        rounds = depth // unroll
        steps = [line * shape.stride[0] * x_h + column * shape.stride[1] * x_w for line, column in pixels]
        chunks = Chunks(sums, len(pixels) * vectors) if shape.taps * self.ic > LONGEST else None
        pieces = max(1, round(depth / CHUNK)) if chunks and rounds > 1 else 1

        def taps(x: Access, weight: Access, k: Expr) -> None:
            panel = [B.bind(weight.load(k * (vectors * lanes) + v * lanes, lanes)) for v in range(vectors)]
            for p, step in enumerate(steps):
                value = B.bind(x.load(k + step, lanes, stride=0))
                for v in range(vectors):
                    sums[p * vectors + v] = sums[p * vectors + v] + value * panel[v]

        def channels(h: Expr, w: Expr) -> None:
            here = x.shifted(h * (shape.dilation[0] * x_h) + w * (shape.dilation[1] * x_w))
            weight = self.weight.shifted(self.panel_at + (h * kernel_w + w) * (depth * vectors * lanes))

            def several(first: Expr, count: Expr) -> None:
                with B.serial(count) as step:
                    k = first + step
                    for prefetch in prefetches:
                        prefetch.emit((h * kernel_w + w) * rounds + k, kernel_h * kernel_w * rounds)
                    for u in range(unroll):
                        taps(here, weight, k * unroll + u)

            if chunks and pieces > 1:
                chunks.split(rounds, pieces, several)
            elif rounds > 1:
                several(B.int32(0), rounds)
            for u in range(rounds * unroll if rounds > 1 else 0, depth):
                taps(here, weight, u)

        if shape.taps == 0:  # a phase of a transposed convolution that no tap reaches
            return
        with B.serial(kernel_h) as h:
            with B.serial(kernel_w) as w:
                channels(h, w)
                if chunks and depth > CHUNK // 2:
                    chunks.close()
            if chunks and depth <= CHUNK // 2:
                chunks.close()
        if chunks:
            chunks.finish()
