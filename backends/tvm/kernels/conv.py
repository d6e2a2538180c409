"""Direct convolution in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Registers
from .conv_shape import ConvShape, Epilogue, Prefetch, load_first
from .gemm import CHUNK, LONGEST, Chunks, zeros
from .tiled_conv import Pixels, TileBody, TiledConv
from .tiles import choose_conv_tile


@dataclass(frozen=True)
class DirectConv(TiledConv):
    """Convolution in one or two dimensions with any kernel, stride, dilation and groups."""

    name: ClassVar[str] = "direct-conv"

    @classmethod
    def choose(cls, shape: ConvShape, target: CpuTarget) -> DirectConv:
        """The kernel with the tile that the analytical model predicts to be fastest on `target`."""
        shape = shape.flattened()
        return cls(shape, choose_conv_tile(shape, target))

    def body(self, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> TileBody:
        """What emits one panel of output channels of image `n` and group `group`."""
        return DirectBody(self, operands, n, group, panel)


class DirectBody(TileBody):
    """Long sums are made of sums of about `CHUNK` products."""

    def __init__(self, kernel: TiledConv, operands: Sequence[Access], n: Expr, group: Expr, panel: Expr) -> None:
        x, weight, self.bias, *residual, y = operands
        super().__init__(kernel, x, weight, n, group, panel)
        self.residual = residual[0] if residual else None
        self.finish = Epilogue(kernel.shape, self.residual, y)
        self.chunks: Chunks | None = None

    def start(self, slots: int, counts: Sequence[int]) -> Registers:
        return zeros(slots, 1, self.tile.lanes)

    def products(
        self, sums: Registers, x: Access, k: Expr, steps: Sequence[int], weight: Access, at: Expr, vectors: int
    ) -> None:
        lanes = self.tile.lanes
        row = [B.bind(weight.load(at + v * lanes, lanes)) for v in range(vectors)]
        for p, step in enumerate(steps):
            value = B.bind(x.load(k + step, lanes, stride=0))
            for v in range(vectors):
                sums[p * vectors + v] = sums[p * vectors + v] + value * row[v]

    def accumulate(
        self, sums: Registers, x: Access, pixels: Pixels, vectors: int, prefetches: Sequence[Prefetch]
    ) -> None:
        """Add the products of every tap and input channel."""
        if self.kernel.depth <= LONGEST:
            self.chunks = None
            super().accumulate(sums, x, pixels, vectors, prefetches)
            return
        self.chunks = Chunks(sums, len(pixels) * vectors)
        down, across = self.kernel.runs
        with B.serial(down) as i:
            with B.serial(across) as j:
                self.run(sums, x, pixels, vectors, prefetches, i, j)
                if self.kernel.rounds > CHUNK // 2:
                    self.chunks.close()
            if self.kernel.rounds <= CHUNK // 2:
                self.chunks.close()
        self.chunks.finish()

    def loop(self, rounds: int, body: Callable[[Expr, Expr], None]) -> None:
        """Run `body(first, count)` on all of `rounds`, in chunks where there are many."""
        pieces = max(1, round(self.kernel.rounds / CHUNK))
        if self.chunks and pieces > 1:
            self.chunks.split(rounds, pieces, body)
        else:
            super().loop(rounds, body)

    def conclude(
        self, sums: Registers, counts: Sequence[int], y_at: Expr, residual_at: Expr, places: Sequence[tuple[int, int]]
    ) -> None:
        """Add the bias, last: a large one would make every product round more."""
        lanes, vectors = self.tile.lanes, len(counts)
        bias = [B.bind(load_first(self.bias, self.first_channel + v * lanes, lanes, counts[v])) for v in range(vectors)]
        for slot in range(len(places) * vectors):
            sums[slot] = sums[slot] + bias[slot % vectors]
        for p, (y_step, residual_step) in enumerate(places):
            for v in range(vectors):
                at = v * lanes
                self.finish(
                    sums[p * vectors + v], y_at + (y_step + at), residual_at + (residual_step + at), lanes, counts[v]
                )
