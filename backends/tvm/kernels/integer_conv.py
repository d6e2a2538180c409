"""Direct convolution of 8-bit integers: 32-bit sums of bytes times bytes, requantised as they are stored.

A linear layer is a 1x1 convolution of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Operand, Registers
from .conv_shape import ConvShape, load_first
from .integer import STEP, DotProduct, integer_lanes
from .requantization import Requantization, Results
from .tiled_conv import TileBody, TiledConv
from .tiles import ConvTile, choose_conv_tile

_SUMS = 16  # that are added to in a round of the innermost loop, at least


@dataclass(frozen=True)
class IntegerTiledConv(TiledConv):
    """What convolutions of biased 8-bit integers in one or two dimensions share, however their weights lie.

    Operands: x, weight, bias (int32, that of a biased input), and those of `results`. What lies around x must hold its
    zero point. A few bytes behind the last element that a tap touches must be readable.
    """

    results: Requantization
    product: DotProduct

    step: ClassVar[int] = STEP
    line: ClassVar[int] = 64

    def operands(self) -> tuple[Operand, ...]:
        """x, weight, bias [oc], then factor, numbers, residual and y as the requantisation has them."""
        first = (Operand("x", "uint8"), Operand("weight", "int8"), Operand("bias", "int32"))
        return (*first, *self.results.operands())

    def extensions(self) -> frozenset[str]:
        """Those of the dot product."""
        return self.product.extensions()

    def for_weights(self, packed: torch.Tensor) -> Self:
        """The same kernel with the dot product that suits these weights, packed in steps."""
        return replace(self, product=self.product.for_weights(packed))


@dataclass(frozen=True)
class IntegerConv(IntegerTiledConv):
    """Convolution of biased 8-bit integers with any kernel, stride, dilation and groups.

    The weight operand is what `pack` gives. Up to 3 bytes behind the last element that a tap touches are read.
    """

    name: ClassVar[str] = "integer-conv"

    @classmethod
    def choose(cls, shape: ConvShape, results: Requantization, target: CpuTarget) -> IntegerConv:
        """The kernel with the tile that the analytical model predicts to be fastest on `target`."""
        shape = shape.flattened()
        tile = integer_tile(shape, target)
        return cls(shape, tile, results, DotProduct.choose(tile.lanes, target))

    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> TileBody:
        """What emits one panel of output channels of image `n` and group `group`."""
        return IntegerBody(self, operands, n, group, panel)


class IntegerBody(TileBody):
    """A task of a convolution of 8-bit integers, whose bias its sums start from."""

    def __init__(self, kernel: IntegerTiledConv, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> None:
        x, weight, self.bias, *others = operands
        super().__init__(kernel, x, weight, n, group, panel)
        self.product = kernel.product
        self.results = Results(kernel.results, kernel.tile.lanes, others)
        self.residual = self.results.residual
        self.residual_line = 16 if kernel.results.mode == "float" else 64

    def start(self, slots: int, counts: Sequence[int]) -> Registers:
        lanes, sums = self.tile.lanes, Registers(slots, self.tile.lanes, "int32")
        for v, count in enumerate(counts):
            bias = B.bind(load_first(self.bias, self.first_channel + v * lanes, lanes, count))
            for slot in range(v, slots, len(counts)):
                sums[slot] = bias
        return sums

    def products(
        self, sums: Registers, x: Access, k: Expr, steps: Sequence[int], weight: Access, at: Expr, vectors: int
    ) -> None:
        row = self.weights(weight, at, vectors)
        for p, step in enumerate(steps):
            value = self.product.x(x, k + step)
            for v in range(vectors):
                sums[p * vectors + v] = self.product.add(sums[p * vectors + v], value, row[v])

    def weights(self, weight: Access, at: Expr, vectors: int) -> list[tuple[Expr, ...]]:
        """A row of weights, as the dot product takes them."""
        return [self.product.weight(weight, at + v * (self.tile.lanes * STEP)) for v in range(vectors)]

    def conclude(
        self, sums: Registers, counts: Sequence[int], y_at: Expr, residual_at: Expr, places: Sequence[tuple[int, int]]
    ) -> None:
        rows = [(y_at + y_step, residual_at + residual_step) for y_step, residual_step in places]
        self.results.store(sums, self.first_channel, counts, rows)


def integer_tile(shape: ConvShape, target: CpuTarget, share: Callable[[int], float] = lambda channels: 1.0) -> ConvTile:
    """The tile that suits a convolution of 8-bit integers; `share` is that of `choose_conv_tile`.

    To the model it is one of floats with a quarter of the channels: four bytes take the place of one float.
    """
    group = -(-shape.ic // shape.groups // STEP)
    n, h, w = (-(-stride // STEP) for stride in shape.x_strides)
    dwords = replace(shape, ic=shape.groups * group, x_strides=(n, h, w))
    tile = choose_conv_tile(dwords, target, share=share)
    # A step of many sums hides the loop around it; to write out more of them costs time to compile and gains none.
    unroll = min(tile.unroll, -(-_SUMS // (tile.lines * tile.columns * tile.vectors)))
    return replace(tile, lanes=integer_lanes(shape.oc // shape.groups, target), unroll=unroll)
