"""Convolution of 8-bit integers that keep at most N of M consecutive input channels: 2:4, 1:4, 4:8, 4:16 and so on.

A step takes a window of x, 8 or 16 bytes, and each output channel multiplies four of them: those that belong to the
four weights it keeps there. Where they are is stored in fields of 2 or 4 bits; a shuffle of bytes brings them side by
side. The dot product of a step is then that of the dense kernel, which needs two or four of them for a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Operand, Registers
from .conv_shape import ConvShape, Prefetch
from .integer import STEP, DotProduct, reinterpret
from .integer_conv import IntegerBody, IntegerTiledConv, integer_tile
from .requantization import Requantization
from .tiled_conv import Pixels
from .vmath import constant, vector_type

_BYTE = 8
_SHUFFLE = {
    4: "llvm.x86.ssse3.pshuf.b.128",
    8: "llvm.x86.avx2.pshuf.b",
    16: "llvm.x86.avx512.pshuf.b.512",
}


@dataclass(frozen=True)
class Window:
    """What a step takes of x: as many elements as have `STEP` weights left, when of each `part` at most `kept` are.

    Where a weight is in its part is stored in a field of `bits` bits. Parts are of 4 weights, or as long as the window.
    """

    kept: int
    part: int

    @property
    def length(self) -> int:
        """Elements of x: 8 or 16."""
        return STEP * self.part // self.kept

    @property
    def bits(self) -> int:
        """Bits of a field; two or four fields of different steps share a byte."""
        return 2 if self.part == STEP else 4

    @property
    def steps(self) -> int:
        """Steps whose fields share the bytes of a vector."""
        return _BYTE // self.bits

    def _parts(self, weight: torch.Tensor) -> torch.Tensor:
        whole = torch.nn.functional.pad(weight, (0, -weight.shape[-1] % self.length))
        return whole.reshape(*weight.shape[:-1], -1, self.part)

    def pack(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The four kept values of each window of weights [..., k], and their fields: both [..., windows, 4], int8."""
        parts = self._parts(weight)
        order = parts.eq(0).to(torch.uint8).argsort(dim=-1, stable=True)[..., : self.kept]
        values = parts.gather(-1, order)
        fields = torch.where(values == 0, 0, order).to(torch.int8)
        windows = (*weight.shape[:-1], -1, STEP)
        return values.reshape(windows), fields.reshape(windows)


@dataclass(frozen=True)
class IntegerWindowConv(IntegerTiledConv):
    """Convolution of biased 8-bit integers with any kernel, stride and dilation, in one group.

    Operands weight and fields are what `pack_windows` gives. Up to 15 bytes behind the last element that a tap touches
    are read.
    """

    window: Window

    name: ClassVar[str] = "integer-window-conv"

    @classmethod
    def choose(cls, shape: ConvShape, results: Requantization, target: CpuTarget, window: Window) -> IntegerWindowConv:
        """The kernel with the tile for `target`."""
        shape = shape.flattened()
        tile = integer_tile(shape, target, lambda channels: STEP / window.length)
        tile = replace(tile, unroll=window.steps, prefetch=False)
        return cls(shape, tile, results, DotProduct.choose(tile.lanes, target), window)

    def operands(self) -> tuple[Operand, ...]:
        """x, weight, fields, then those of the dense kernel."""
        x, weight, *rest = super().operands()
        return (x, weight, Operand("fields", "int8"), *rest)

    @property
    def rounds(self) -> int:
        """Steps of one run."""
        return -(-super().rounds * STEP // self.window.length)

    @property
    def shared(self) -> int:
        """Vectors of fields of one run and one vector of channels."""
        return -(-self.rounds // self.window.steps)

    def pack_windows(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The operands weight and fields, from `weight` [oc, ic, kh, kw]."""
        tile, window = self.tile, self.window
        values, fields = window.pack(self.laid_out(weight)[0])
        down, across, channels, steps, _ = fields.shape
        fields = torch.nn.functional.pad(fields, (0, 0, 0, -steps % window.steps))
        shifts = torch.arange(window.steps, dtype=torch.int8) * window.bits
        shared = fields.reshape(down, across, channels, -1, window.steps, STEP) << shifts[:, None]
        fields = shared.sum(-2, dtype=torch.int8)
        weight, fields = (
            torch.cat(
                [panel.transpose(2, 3).flatten() for panel in torch.split(part, tile.vectors * tile.lanes, dim=2)]
            )
            for part in (values, fields)
        )
        return weight, fields

    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> IntegerBody:
        """What emits one panel of output channels of image `n`."""
        return _Body(self, operands, n, group, panel)


class _Body(IntegerBody):
    def __init__(
        self, kernel: IntegerWindowConv, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr
    ) -> None:
        x, weight, fields, *rest = operands
        super().__init__(kernel, (x, weight, *rest), n, group, panel)
        self.window, self.shared = kernel.window, kernel.shared
        tile, runs = kernel.tile, kernel.runs[0] * kernel.runs[1]
        self.fields = fields.shifted(panel * (tile.vectors * tile.lanes * STEP * runs * kernel.shared))

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
        shape, kernel, window = self.shape, self.kernel, self.window
        _, x_h, x_w = shape.x_strides
        steps = [line * shape.stride[0] * x_h + column * shape.stride[1] * x_w for line, column in pixels]
        here = x.shifted(down * (shape.dilation[0] * x_h) + across * (shape.dilation[1] * x_w))
        number = down * kernel.runs[1] + across
        width = vectors * self.tile.lanes * STEP
        weight = self.weight.shifted(self.panel_at + number * (kernel.rounds * width))
        fields = self.fields.shifted(number * (self.shared * width))
        whole, rest = divmod(kernel.rounds, window.steps)

        def several(first: Expr, count: int) -> None:
            words = [self._words(fields, first * width + v * (self.tile.lanes * STEP)) for v in range(vectors)]
            for s in range(count):
                step = first * window.steps + s
                orders = [self._order(word, s) for word in words]
                self._step(sums, here, step * window.length, steps, weight, step * width, orders)

        if whole:
            with B.serial(whole) as round_:
                for prefetch in prefetches:
                    prefetch.emit(number * whole + round_, kernel.runs[0] * kernel.runs[1] * whole)
                several(round_, window.steps)
        if rest:
            several(B.int32(whole), rest)

    def _words(self, fields: Access, at: Expr) -> Expr:
        lanes = self.tile.lanes
        return B.bind(reinterpret(fields.load(at, lanes * STEP), "int32", lanes))

    def _order(self, words: Expr, step: int) -> Expr:
        """Which bytes of a window each lane takes in that step of those that share `words`."""
        lanes, bits = self.tile.lanes, self.window.bits
        field = words >> constant(step * bits, "int32", lanes) if step else words
        mask = ((1 << bits) - 1) * 0x01010101
        order = field & constant(mask, "int32", lanes)
        if bits == 2:
            first = sum((i // self.window.kept * STEP) << (_BYTE * i) for i in range(STEP))
            order = order | constant(first, "int32", lanes)
        return B.bind(reinterpret(order, "int8", STEP * lanes))

    def _step(
        self,
        sums: Registers,
        x: Access,
        k: Expr,
        steps: Sequence[int],
        weight: Access,
        at: Expr,
        orders: Sequence[Expr],
    ) -> None:
        """Add the products of one window for each pixel."""
        lanes, vectors = self.tile.lanes, len(orders)
        row = [self.product.weight(weight, at + v * (lanes * STEP)) for v in range(vectors)]
        for p, step in enumerate(steps):
            window = self._window(x, k + step)
            for v in range(vectors):
                name, result = _SHUFFLE[lanes], vector_type("int8", STEP * lanes)
                taken = tirx.call_llvm_pure_intrin(result, name, window, orders[v])
                value = self.product.left(reinterpret(taken, "int32", lanes))
                sums[p * vectors + v] = self.product.add(sums[p * vectors + v], value, row[v])

    def _window(self, x: Access, at: Expr) -> Expr:
        """The bytes of a window, again and again in a vector."""
        lanes, length = self.tile.lanes, self.window.length
        times = STEP * lanes // length
        if length == 8:
            repeated = B.broadcast(reinterpret(x.load(at, length), "int64", 1), times)
        else:
            loaded = B.bind(reinterpret(x.load(at, length), "int32", STEP))
            repeated = loaded if times == 1 else tirx.Shuffle([loaded] * times, list(range(lanes)))
        return B.bind(reinterpret(repeated, "int8", STEP * lanes))
