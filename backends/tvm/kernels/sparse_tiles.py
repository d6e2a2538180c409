"""What convolutions with mostly zero weights share: each panel of channels has its own steps of the reduction."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....ops.sparse import pack_blocks
from .base import Access, Expr, Operand, Registers
from .conv_shape import Prefetch
from .tiled_conv import Pixels, TileBody, TiledConv
from .tiles import copies_of

_LEAST_PARALLEL_FLOPS = 150_000  # under this, starting the threads costs more than they save
_LEVEL = 0.9  # of the time of the busiest core, what the cores work on average when pixels are shared out evenly enough


@dataclass(frozen=True)
class SparseTiles(TiledConv):
    """A convolution in one or two dimensions without groups that makes some steps of the reduction for each panel.

    The weight operand is what `pack_sparse` returns, in three parts: the weights of the steps, panel by panel; for each
    step how far from a pixel's first tap its elements of x lie; and where each panel's steps begin, then where each
    share of the panels does. Tiles with few sums have `copies` sets of them, which take turns. A task is one of
    `shares` runs of panels with about equally many steps, for one of `parts` runs of pixels: all panels of the run for
    a tile of pixels, which stays in the first cache, then for the next tile.
    """

    copies: int = field(default=1, kw_only=True)
    shares: int = field(default=1, kw_only=True)
    parts: int = field(default=1, kw_only=True)

    def spread(self, density: float, target: CpuTarget) -> Self:
        """The same kernel with its tasks chosen for `target`, where `density` is the share of steps that are made."""
        tile, panels, tiles = self.tile, self.tile.panels(self.shape), self.tile.tiles(self.shape) * self.shape.batch
        tile = replace(tile, block=1, order="pixels", prefetch=False)
        copies = copies_of(tile.lines * tile.columns * tile.vectors)
        cores = target.cores if density * self.flops() >= _LEAST_PARALLEL_FLOPS else 1
        weights = density * panels * self.width * (self.depth // self.step) * 4
        resident = target.l2 // 2
        if weights <= resident and tiles / cores >= _LEVEL * -(-tiles // cores):
            return replace(self, tile=tile, copies=copies, shares=1, parts=cores)
        passes = math.ceil(weights / (cores * resident))
        return replace(self, tile=tile, copies=copies, shares=max(1, min(passes * cores, panels)), parts=1)

    def operands(self) -> tuple[Operand, ...]:
        """x, weight, offsets, pointers, then those of the dense kernel."""
        x, weight, *rest = super().operands()
        return (x, weight, Operand("offsets", "int32"), Operand("pointers", "int32"), *rest)

    def describe(self) -> str:
        """The register tile, loop order and block."""
        copies = f" copies={self.copies}" if self.copies > 1 else ""
        return f"{self.name} {self.tile.register_text()} shares={self.shares} parts={self.parts}{copies}"

    @property
    def width(self) -> int:
        """Output channels of a panel."""
        return self.tile.vectors * self.tile.lanes

    def pack_sparse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The three parts of `weight` [oc, ic, kh, kw]."""
        whole = _whole_steps(weight, self.step)
        values, columns, pointers = pack_blocks(whole, self.width, self.step)
        vectors, _ = self.tile.last_panel(self.shape)
        last = int(pointers[-2])
        flat = torch.cat([values[:last].flatten(), values[last:, : vectors * self.tile.lanes].flatten()])
        _, x_h, x_w = self.shape.x_strides
        steps = whole.shape[1] // self.step
        tap, channel = columns // steps, columns % steps * self.step
        down, across = tap // self.shape.kernel[1], tap % self.shape.kernel[1]
        offsets = down * (self.shape.dilation[0] * x_h) + across * (self.shape.dilation[1] * x_w) + channel
        middles = (pointers[1:] + pointers[:-1]) / 2
        bounds = torch.arange(1, self.shares) * (int(pointers[-1]) / self.shares)
        begins = torch.nn.functional.pad(torch.searchsorted(middles, bounds), (1, 1))
        begins[-1] = len(middles)
        return flat, offsets.to(torch.int32), torch.cat([pointers, begins.to(torch.int32)])

    def emit(self, *operands: Access) -> None:
        """Emit the parallel loop over shares of the panels and parts of the pixels."""
        tiles, panels = self.tile.blocks(self.shape), self.tile.panels(self.shape)
        most = -(-self.shape.batch * tiles // self.parts)
        begins = operands[3].shifted(panels + 1)
        count = self.shares * self.parts
        with B.parallel(count) if count > 1 else B.serial(1) as task:
            share, start = B.bind(task // self.parts), B.bind(task % self.parts * most)
            first = B.bind(begins.load(share))
            last = B.bind(begins.load(share + 1))
            with B.serial(B.max(B.min(B.int32(most), self.shape.batch * tiles - start), 0)) as i:
                number = B.bind(start + i)
                n, block = B.bind(number // tiles), B.bind(number % tiles)
                with B.serial(last - first) as step:
                    panel = B.bind(first + step)
                    body = self.body(operands, n, B.int32(0), panel)
                    self.at_panel(panel, functools.partial(body.pixels, block))


class SparseSteps(TileBody):
    """The steps of a panel are as many as its list says."""

    def __init__(self, kernel: SparseTiles, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> None:
        x, weight, offsets, pointers, *rest = operands
        super().__init__(kernel, (x, weight, *rest), n, group, panel)  # type: ignore[call-arg, arg-type]  # a dense body
        first = B.bind(pointers.load(panel))
        self.count = B.bind(pointers.load(panel + 1) - first)
        self.offsets, self.weight = offsets.shifted(first), weight.shifted(first * (kernel.width * kernel.step))
        self.copies = kernel.copies

    def start(self, slots: int, counts: Sequence[int]) -> Registers:
        return super().start(slots * self.copies, counts)  # type: ignore[safe-super]

    def accumulate(
        self, sums: Registers, x: Access, pixels: Pixels, vectors: int, prefetches: Sequence[Prefetch]
    ) -> None:
        """Add the products of the panel's steps."""
        _, x_h, x_w = self.shape.x_strides
        places = [line * self.shape.stride[0] * x_h + column * self.shape.stride[1] * x_w for line, column in pixels]
        slots, width = len(pixels) * vectors, vectors * self.tile.lanes * self.kernel.step
        unroll = max(self.tile.unroll, self.copies)

        def step(k: Expr, copy: int) -> None:
            at = B.bind(self.offsets.load(k))
            mine = _Slots(sums, copy * slots)
            self.products(mine, x, at, places, self.weight, k * width, vectors)

        def run(first: Expr, count: Expr) -> None:
            with B.serial(count // unroll) as block:
                for u in range(unroll):
                    step(B.bind(first + (block * unroll + u)), u % self.copies)
            done = B.bind(first + count // unroll * unroll)
            with B.serial(count % unroll) as rest:
                step(B.bind(done + rest), 0)

        for prefetch in prefetches:
            for line in range(prefetch.count):
                prefetch.line(B.int32(line))
        self.steps(sums, slots * self.copies, run)
        for slot in range(slots):
            for copy in range(1, self.copies):
                sums[slot] = sums[slot] + sums[copy * slots + slot]

    def steps(self, sums: Registers, slots: int, run: Callable[[Expr, Expr], None]) -> None:
        """Make all steps; `run(first, count)` makes some of them."""
        run(B.int32(0), self.count)


class _Slots(Registers):
    """Registers seen from slot `first` on."""

    def __init__(self, whole: Registers, first: int) -> None:
        self.lanes, self._whole, self._first = whole.lanes, whole, first

    def __getitem__(self, slot: int) -> Expr:
        return self._whole[self._first + slot]

    def __setitem__(self, slot: int, value: Expr) -> None:
        self._whole[self._first + slot] = value


def _whole_steps(weight: torch.Tensor, step: int) -> torch.Tensor:
    """`weight` [oc, ic, kh, kw] with zeros up to a whole number of steps of input channels."""
    return torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, -weight.shape[1] % step))
