"""Winograd convolution F(m x m, 3x3): fewer multiplications for 3x3 kernels of stride 1, in cached scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Operand
from .conv_shape import LINE, ConvKernel, ConvShape, Epilogue
from .winograd_tiles import WinogradTiles
from .winograd_weights import TransformWeights, WinogradWeights
from .winograd_worker import WinogradWorker

_FEW_TILES = 32  # with fewer in a block, each block's own transform of the weights costs too much
_READ_CYCLES, _WEIGHT_CYCLES = 90, 45  # of a core, to transform a vector of channels: of a tile, of a 3x3 kernel


@dataclass(frozen=True)
class WinogradConv(ConvKernel):
    """3x3 convolution of stride 1 by F(`outputs` x `outputs`, 3x3).

    Workers run in parallel: `groups` of panels of output channels times `shares` of the output tiles. A worker takes a
    block of `tiles` at a time, and for each chunk of input channels transforms their input and then makes, panel after
    panel, one matrix product a point; the products of a panel are transformed back with the epilogue.

    `weights` says when weights are transformed. "load": once, by the kernel `transform()`. "run": by each worker, for
    its panels, which costs little time beside the products; the plain weights are 9/16 of the memory to hold and read.
    Operand `scratch` is memory for `scratch_elements` floats, for all workers.
    """

    outputs: int
    lanes: int
    vectors: int
    columns: int
    tiles: int
    groups: int = 1
    shares: int = 1
    weights: Literal["load", "run"] = "run"

    name: ClassVar[str] = "winograd-conv"

    def __post_init__(self) -> None:
        if not possible(self.shape):
            raise ValueError(
                f"shape must be 3x3 with stride, dilation and groups 1, not {self.shape.text()}; use DirectConv"
            )
        if (self.groups - 1) * self.panels >= self.form.panels:
            raise ValueError(f"groups must leave panels for each, not be {self.groups} for {self.form.panels} panels")

    @classmethod
    def choose(cls, shape: ConvShape, target: CpuTarget, outputs: int = 2) -> WinogradConv:
        """The division of work that takes the fewest cycles, with scratch memory that stays in the second cache.

        F(2, 3) is the default: its error is that of a direct convolution, where F(4, 3) has about 2.5 times as much.
        Inside a network, where weights come from memory, its 1.8 times as many weights also cost less than 4 times.
        """
        lanes = target.vector.lanes
        vectors = min(2, -(-shape.oc // lanes))
        kernel = cls(shape, outputs, lanes, vectors, columns=1, tiles=1)
        panels, total = kernel.form.panels, kernel.grid.count

        def divided(groups: int) -> WinogradConv:
            groups = -(-panels // -(-panels // groups))
            return replace(kernel, groups=groups, shares=min(target.cores // groups, total))

        def cycles(kernel: WinogradConv) -> float:
            tiles = -(-total // kernel.shares)
            products = tiles * kernel.panels * vectors * kernel.form.points / 2
            return shape.ic * (products + tiles / lanes * _READ_CYCLES + kernel.panels * vectors * _WEIGHT_CYCLES)

        kernel = min((divided(groups) for groups in range(1, min(target.cores, panels) + 1)), key=cycles)
        widest = 13 if target.vector.registers >= 32 else 6

        def blocked(weights: Literal["load", "run"], most: int) -> WinogradConv:
            """Blocks of equal size, of at most `most` tiles."""
            rounds = -(-total // (kernel.shares * most))
            tiles = -(-total // (kernel.shares * rounds))
            return replace(kernel, tiles=tiles, columns=-(-tiles // -(-tiles // widest)), weights=weights)

        def fitting(weights: Literal["load", "run"], room: int) -> WinogradConv:
            """The largest blocks, one of several, for which a worker needs `room` bytes of scratch memory."""
            least = blocked(weights, 1).worker_elements
            tile = kernel.form.points * (kernel.form.depth + kernel.product_panels * kernel.form.width)
            return blocked(weights, max(1, (room // 4 - least) // tile))

        whole = blocked("run", total)
        if whole.worker_elements * 4 <= target.l2 * 3 // 4:
            return whole
        run = fitting("run", target.l2 * 5 // 16)  # larger blocks are no faster
        return run if run.tiles >= _FEW_TILES else fitting("load", target.l2 // 2)

    @property
    def form(self) -> WinogradWeights:
        """The weights, plain and transformed."""
        return WinogradWeights(self.shape.ic, self.shape.oc, self.outputs, self.lanes, self.vectors)

    @property
    def grid(self) -> WinogradTiles:
        """The output tiles."""
        return WinogradTiles(self.shape, self.outputs, self.lanes)

    @property
    def blocks(self) -> int:
        """Blocks of output tiles that a worker takes one after the other."""
        return -(-self.grid.count // (self.tiles * self.shares))

    @property
    def panels(self) -> int:
        """Panels of output channels of a worker."""
        return -(-self.form.panels // self.groups)

    @property
    def turns(self) -> int:
        """Register tiles of a block for one point and panel."""
        return -(-self.tiles // self.columns)

    # Steps are a line longer than needed: else points often lie a multiple of 4 KiB apart, in one set of L1.
    @property
    def source_step(self) -> int:
        """Floats from one point of the transformed input to the next."""
        return self.tiles * self.form.depth + LINE

    @property
    def product_step(self) -> int:
        """Floats from one point of a panel's products to the next."""
        return self.tiles * self.form.width + LINE

    @property
    def product_panels(self) -> int:
        """Panels whose products a worker holds: all where they are sums of several chunks."""
        return self.panels if self.form.chunks > 1 else 1

    @property
    def weight_blocks(self) -> int:
        """Blocks of transformed weights a worker holds: this and the next, or all where it needs them again."""
        if self.weights == "load":
            return 0
        return min(2, self.panels * self.form.chunks) if self.blocks == 1 else self.panels * self.form.chunks

    @property
    def worker_elements(self) -> int:
        """Floats of scratch memory of one worker."""
        points = self.source_step + self.product_panels * self.product_step
        return self.form.points * points + self.weight_blocks * self.form.block

    @property
    def scratch_elements(self) -> int:
        """Floats of operand `scratch`."""
        return self.groups * self.shares * self.worker_elements

    def operands(self) -> tuple[Operand, ...]:
        """x, weight, bias [oc], residual where there is one, scratch, y."""
        *inputs, y = super().operands()
        return (*inputs, Operand("scratch", "float32", write=True), y)

    def transform(self) -> TransformWeights | None:
        """The kernel that makes the weight operand from what `pack` returns; None where that is the operand."""
        return TransformWeights(self.form) if self.weights == "load" else None

    def traffic(self, sizes: Sequence[int]) -> int:
        """All but the scratch memory, which stays in cache."""
        return sum(sizes) - sizes[-2]

    def describe(self) -> str:
        """The variant, register tile, size of a block, and when weights are transformed."""
        tile = f"tile={self.columns}x{self.vectors}x{self.lanes}"
        return f"{self.name} F({self.outputs},3) {tile} tiles={self.tiles} weights={self.weights}"

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay out `weight` [oc, ic, 3, 3], flat, for `transform()` or the kernel itself."""
        return self.form.pack(weight)

    def emit(self, *operands: Access) -> None:
        """Emit the loop over workers."""
        x, weight, bias, *residual, scratch, y = operands
        workers = self.groups * self.shares
        finish = Epilogue(self.shape, residual[0] if residual else None, y)
        with (B.parallel if workers > 1 else B.serial)(workers) as number:
            memory = scratch.shifted(number * self.worker_elements)
            group, share = B.bind(number % self.groups), B.bind(number // self.groups)
            WinogradWorker(self, x, weight, bias, finish, memory, group, share).run()


def possible(shape: ConvShape) -> bool:
    """Whether Winograd can compute `shape` at all."""
    return shape.kernel == (3, 3) and shape.stride == (1, 1) and shape.dilation == (1, 1) and shape.groups == 1


def profitable(shape: ConvShape, target: CpuTarget) -> bool:
    """Whether `WinogradConv` is expected to be faster than `DirectConv` and accurate enough.

    It needs channels enough to fill vectors and to pay for the transforms, and output tiles enough on each core to pay
    for the weights' transform; tiles that overhang the image are work for nothing.
    """
    if not possible(shape) or shape.ic < 32 or shape.oc < 32:
        return False
    tiles = -(-shape.height // 2) * -(-shape.width // 2)
    return tiles * shape.batch >= 12 * target.cores and 4 * tiles <= shape.height * shape.width * 4 // 3
