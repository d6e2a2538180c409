"""Convolution of 8-bit integers with weights most blocks of which are zero: only the others are stored and multiplied.

A block is a panel of output channels by four consecutive input channels of one tap: what one step of the dense kernel
multiplies. A linear layer is a 1x1 convolution of its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from ....cpu import CpuTarget
from ....ops.sparse import block_density
from .base import Access, Expr, Registers
from .conv_shape import ConvShape
from .integer import STEP, DotProduct
from .integer_conv import IntegerBody, IntegerTiledConv, integer_tile
from .requantization import Requantization
from .sparse_tiles import SparseSteps, SparseTiles
from .tiled_conv import TileBody
from .vmath import constant


@dataclass(frozen=True)
class IntegerSparseConv(SparseTiles, IntegerTiledConv):
    """Convolution of biased 8-bit integers without groups that reads and multiplies only what is not zero.

    Up to 3 bytes behind the last element that a tap touches are read.
    """

    name: ClassVar[str] = "integer-sparse-conv"

    @classmethod
    def choose(cls, shape: ConvShape, results: Requantization, target: CpuTarget, weight: torch.Tensor) -> Self:
        """The kernel for a weight [oc, ic, kh, kw], whose zeros have a say in the tile."""
        shape = shape.flattened()
        density = functools.cache(lambda width: block_density(weight, width, STEP))
        tile = integer_tile(shape, target, density)
        kernel = cls(shape, tile, results, DotProduct.choose(tile.lanes, target))
        return kernel.spread(density(kernel.width), target)

    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> TileBody:
        """What emits one panel of output channels of image `n`."""
        return _Body(self, operands, n, group, panel)


class _Body(SparseSteps, IntegerBody):
    def start(self, slots: int, counts: Sequence[int]) -> Registers:
        """The bias in the first copy of the sums."""
        sums = super().start(slots, counts)
        for slot in range(slots, slots * self.copies):
            sums[slot] = constant(0, "int32", self.tile.lanes)
        return sums
