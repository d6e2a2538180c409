"""Convolution (and linear layers as 1x1 convolutions) whose weight is mostly zero, in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....ops.sparse import block_density
from .base import Access, Expr, Registers
from .conv import DirectBody, DirectConv
from .conv_shape import ConvShape
from .gemm import CHUNK, LONGEST, Chunks
from .sparse_tiles import SparseSteps, SparseTiles
from .tiled_conv import TileBody
from .tiles import choose_conv_tile


@dataclass(frozen=True)
class SparseConv(SparseTiles, DirectConv):
    """Convolution in one or two dimensions without groups that reads and multiplies only what is not zero."""

    name: ClassVar[str] = "sparse-conv"

    @classmethod
    def choose_sparse(cls, shape: ConvShape, weight: torch.Tensor, target: CpuTarget) -> Self:
        """The kernel for a weight [oc, ic, kh, kw], whose zeros have a say in the tile."""
        shape = shape.flattened()
        density = functools.cache(functools.partial(block_density, weight))
        kernel = cls(shape, choose_conv_tile(shape, target, share=density))
        return kernel.spread(density(kernel.width), target)

    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> TileBody:
        """What emits one panel of output channels of image `n`."""
        return SparseBody(self, operands, n, group, panel)


class SparseBody(SparseSteps, DirectBody):
    """Long sums are made of sums of `CHUNK` products."""

    def steps(self, sums: Registers, slots: int, run: Callable[[Expr, Expr], None]) -> None:
        """Make all steps, in chunks where there may be many."""
        if self.kernel.depth <= LONGEST * self.copies:
            run(B.int32(0), self.count)
            return
        chunks = Chunks(sums, slots)
        with B.serial((self.count + (CHUNK - 1)) // CHUNK) as chunk:
            first = B.bind(chunk * CHUNK)
            run(first, B.bind(B.min(B.int32(CHUNK), self.count - first)))
            chunks.close()
        chunks.finish()
