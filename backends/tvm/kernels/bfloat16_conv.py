"""Direct convolution of bfloat16 by the instruction that adds two products to each float32 sum.

A linear layer is a 1x1 convolution of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import tvm
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Operand, Registers
from .conv import DirectBody
from .conv_shape import ConvShape
from .integer import integer_lanes
from .tiled_conv import TileBody, TiledConv
from .tiles import choose_conv_tile

STEP = 2  # products that one 32-bit lane sums in a step


@dataclass(frozen=True)
class Bfloat16Conv(TiledConv):
    """Convolution of bfloat16 in one or two dimensions with any kernel, stride, dilation and groups.

    Operands: x, weight as `pack` gives it, bias (float32), residual where there is one, y. The runs of the reduction
    must have an even length: an element beyond them would be multiplied with zero, which NaN survives.
    """

    y_dtype: str
    residual_dtype: str = "float32"

    name: ClassVar[str] = "bfloat16-conv"
    step: ClassVar[int] = STEP
    line: ClassVar[int] = 32

    @classmethod
    def choose(cls, shape: ConvShape, y_dtype: str, residual_dtype: str, target: CpuTarget) -> Bfloat16Conv:
        """The kernel with the tile for `target`: to the model, two elements take the place of one float."""
        shape = shape.flattened()
        n, h, w = (-(-stride // STEP) for stride in shape.x_strides)
        pairs = replace(shape, ic=shape.groups * -(-shape.ic // shape.groups // STEP), x_strides=(n, h, w))
        tile = replace(choose_conv_tile(pairs, target), lanes=integer_lanes(shape.oc // shape.groups, target))
        return cls(shape, tile, y_dtype, residual_dtype)

    @classmethod
    def suits(cls, shape: ConvShape, target: CpuTarget) -> bool:
        """Whether the target has the instruction and the shape runs of even length."""
        if not target.has("bf16"):
            return False
        kernel = cls.choose(shape, "float32", "float32", target)
        length = shape.ic // shape.groups * (kernel.shape.kernel[1] // kernel.runs[1])
        return length % STEP == 0

    def operands(self) -> tuple[Operand, ...]:
        """x, weight, bias [oc], residual where there is one, y."""
        residual = [Operand("residual", self.residual_dtype)] if self.shape.residual_strides is not None else []
        return (
            Operand("x", "bfloat16"),
            Operand("weight", "bfloat16"),
            Operand("bias", "float32"),
            *residual,
            Operand("y", self.y_dtype, write=True),
        )

    def extensions(self) -> frozenset[str]:
        """The dot product of bfloat16."""
        return frozenset({"bf16"})

    def emit(self, *operands: Access) -> None:
        """Emit the loops, with the instruction defined for LLVM: TVM would make floats of its operands."""
        with B.attr(tvm.tirx.const(0), "pragma_import_llvm", tvm.ir.StringImm(_definition(self.tile.lanes))):
            super().emit(*operands)

    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> TileBody:
        """What emits one panel of output channels of image `n` and group `group`."""
        return _Body(self, operands, n, group, panel)


class _Body(DirectBody):
    def products(
        self, sums: Registers, x: Access, k: Expr, steps: Sequence[int], weight: Access, at: Expr, vectors: int
    ) -> None:
        lanes = self.tile.lanes
        row = [B.bind(bits_of(weight.load(at + v * (lanes * STEP), lanes * STEP), lanes)) for v in range(vectors)]
        for p, step in enumerate(steps):
            value = B.bind(B.broadcast(bits_of(x.load(k + step, STEP), 1), lanes))
            for v in range(vectors):
                slot = p * vectors + v
                sums[slot] = B.call_pure_extern(
                    _NAME.format(lanes), sums[slot], value, row[v], dtype=f"float32x{lanes}"
                )


def bits_of(x: Expr, lanes: int) -> Expr:
    """Pairs of bfloat16 as `lanes` 32-bit integers."""
    return tvm.tirx.reinterpret("int32" if lanes == 1 else f"int32x{lanes}", x)


_NAME = "fxpress_dot_bfloat16_{}"


def _definition(lanes: int) -> str:
    """LLVM code of the dot product of pairs of bfloat16, given as 32-bit integers."""
    floats, integers, pairs = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{2 * lanes} x bfloat>"
    intrinsic = f"@llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
    return f"""
define {floats} @{_NAME.format(lanes)}({floats} %sum, {integers} %x, {integers} %weight) alwaysinline nounwind
    readnone "target-features"="+avx512f,+avx512vl,+avx512bf16" {{
  %a = bitcast {integers} %x to {pairs}
  %b = bitcast {integers} %weight to {pairs}
  %result = call {floats} {intrinsic}({floats} %sum, {pairs} %a, {pairs} %b)
  ret {floats} %result
}}
declare {floats} {intrinsic}({floats}, {pairs}, {pairs})
"""
