"""Convolution of 8-bit integers with weights that are zero anywhere: stored under masks, expanded in registers.

It is for a few rows or pixels, which are bound by the bytes of the weight: a dense vector of weights is made again for
each register tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import tvm
from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....ops.sparse import pack_masked
from .base import Access, Expr, Operand, Registers
from .conv_shape import ConvShape, Prefetch
from .integer import STEP, DotProduct
from .integer_conv import IntegerBody, IntegerTiledConv, integer_tile
from .requantization import Requantization
from .tiled_conv import Pixels

LANES = 16  # of the only vectors whose bytes can be expanded
_VECTOR = STEP * LANES
_AHEAD = 4096  # values: how far before its use one is asked for, as far as memory is slow


@dataclass(frozen=True)
class IntegerMaskedConv(IntegerTiledConv):
    """Convolution of biased 8-bit integers with any kernel, stride and dilation, in one group.

    In place of the weight it has what `pack_values` gives: the values that are not zero, in the order of the dense
    kernel's weights; a bit for each of those; and where each panel's values begin.
    """

    name: ClassVar[str] = "integer-masked-conv"

    @classmethod
    def choose(cls, shape: ConvShape, results: Requantization, target: CpuTarget) -> IntegerMaskedConv:
        """The kernel with the tile for `target`, which can expand bytes; there are more than 8 channels."""
        shape = shape.flattened()
        tile = replace(integer_tile(shape, target), prefetch=False)
        return cls(shape, tile, results, DotProduct.choose(tile.lanes, target))

    def operands(self) -> tuple[Operand, ...]:
        """x, weight, masks, starts, then those of the dense kernel."""
        x, weight, *rest = super().operands()
        return (x, weight, Operand("masks", "int64"), Operand("starts", "int32"), *rest)

    def extensions(self) -> frozenset[str]:
        """Those of the dot product, and bytes that are expanded."""
        return super().extensions() | {"vbmi2"}

    def pack_values(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The weight's operands, from `weight` [oc, ic, kh, kw]."""
        packed = self.pack(weight)
        values, mask = pack_masked(packed.unsqueeze(0))
        panels = torch.split(packed, self.depth * self.tile.vectors * LANES)
        counts = torch.tensor([int(panel.count_nonzero()) for panel in panels])
        starts = (counts.cumsum(0) - counts).to(torch.int32)
        return torch.nn.functional.pad(values, (0, _VECTOR)), mask.view(torch.int64), starts

    def emit(self, *operands: Access) -> None:
        """Emit the loops, with the instruction defined for LLVM."""
        with B.attr(tirx.const(0), "pragma_import_llvm", tvm.ir.StringImm(_EXPAND)):
            super().emit(*operands)

    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> IntegerBody:
        """What emits one panel of output channels of image `n`."""
        return _Body(self, operands, n, group, panel)


class _Body(IntegerBody):
    def __init__(
        self, kernel: IntegerMaskedConv, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr
    ) -> None:
        x, weight, masks, starts, *rest = operands
        super().__init__(kernel, (x, weight, *rest), n, group, panel)
        self.values = weight.shifted(starts.load(panel))
        self.masks = masks.shifted(panel * (kernel.depth // STEP * kernel.tile.vectors))
        self.places: Registers

    def accumulate(
        self, sums: Registers, x: Access, pixels: Pixels, vectors: int, prefetches: Sequence[Prefetch]
    ) -> None:
        """Add the products of every tap and input channel, in the order in which the weights are stored."""
        self.places = Registers(2, 1, "int32")  # the next value, the next mask
        self.places[0] = self.places[1] = B.int32(0)
        super().accumulate(sums, x, pixels, vectors, prefetches)

    def weights(self, weight: Access, at: Expr, vectors: int) -> list[tuple[Expr, ...]]:
        """The next row of weights."""
        row = []
        for v in range(vectors):
            mask, first = B.bind(self.masks.load(self.places[1] + v)), B.bind(self.places[0])
            self.values.prefetch(first + _AHEAD)
            loaded = self.values.load(first, _VECTOR)
            row.append(self.product.right(B.call_pure_extern(_NAME, loaded, mask, dtype=f"int8x{_VECTOR}")))
            self.places[0] = first + B.cast(tirx.call_llvm_pure_intrin("int64", "llvm.ctpop.i64", mask), "int32")
        self.places[1] = self.places[1] + vectors
        return row


_NAME = "fxpress_expand_bytes"
_EXPAND = f"""
define <64 x i8> @{_NAME}(<64 x i8> %values, i64 %mask) alwaysinline nounwind
    readnone "target-features"="+avx512f,+avx512vl,+avx512bw,+avx512vbmi2" {{
  %held = bitcast i64 %mask to <64 x i1>
  %result = call <64 x i8> @llvm.x86.avx512.mask.expand.v64i8(<64 x i8> %values, <64 x i8> zeroinitializer,
    <64 x i1> %held)
  ret <64 x i8> %result
}}
declare <64 x i8> @llvm.x86.avx512.mask.expand.v64i8(<64 x i8>, <64 x i8>, <64 x i1>)
"""
