"""Transformed weights of Winograd convolutions: how they lie in memory, and the kernel that makes them at load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from .base import Access, Expr, Kernel, Operand, broadcast
from .conv_shape import LINE, zeros
from .gemm import part

_CHUNK = 128  # products summed on their own: half of what others sum, as the transforms enlarge errors
_LONGEST = _CHUNK * 3 // 2

Matrix = tuple[tuple[float, ...], ...]

# For the first, the last and the middle tap: rows that differ in the middle alone share the rest.
_WEIGHT: dict[int, Matrix] = {
    2: ((1, 0, 0), (1, 1, 1), (1, 1, -1), (0, 1, 0)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, -1 / 6, 1 / 6),
        (1 / 24, 1 / 6, 1 / 12),
        (1 / 24, 1 / 6, -1 / 12),
        (0, 1, 0),
    ),
}


@dataclass(frozen=True)
class WinogradWeights:
    """3x3 weights for F(`outputs` x `outputs`, 3x3), plain and transformed.

    Both are blocks, one for each chunk of input channels and panel of `vectors` x `lanes` output channels. A plain
    block (what `pack` returns) is [channel, vector, tap, lane], with zeros beyond `oc` up to a whole vector; one that
    is transformed is [point, channel, vector, lane], and what lies beyond `oc` may be anything.
    """

    ic: int
    oc: int
    outputs: int
    lanes: int
    vectors: int

    @property
    def points(self) -> int:
        """Products that replace the taps."""
        return (self.outputs + 2) ** 2

    @property
    def width(self) -> int:
        """Output channels of a panel."""
        return self.lanes * self.vectors

    @property
    def panels(self) -> int:
        """Panels that cover `oc`."""
        return -(-self.oc // self.width)

    @property
    def chunks(self) -> int:
        """Parts of the input channels that are summed on their own."""
        return 1 if self.ic <= _LONGEST else -(-self.ic // self.depth)

    @property
    def depth(self) -> int:
        """Input channels of a chunk; the last chunk may have fewer."""
        return self.ic if self.ic <= _LONGEST else -(-self.ic // round(self.ic / _CHUNK))

    @property
    def step(self) -> int:
        """Floats from one point of a block to the next: a line more than needed, to use all sets of L1."""
        return self.depth * self.width + LINE

    @property
    def block(self) -> int:
        """Floats of a transformed block."""
        return self.points * self.step

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay out `weight` [oc, ic, 3, 3] as `transform` reads it, flat."""
        expected = (self.oc, self.ic, 3, 3)
        if tuple(weight.shape) != expected:
            raise ValueError(f"weight must have shape {expected}, not {tuple(weight.shape)}")
        padded = torch.nn.functional.pad(weight.flatten(2), (0, 0, 0, 0, 0, -self.oc % self.lanes))
        blocks = []
        for channel in range(0, self.ic, self.depth):
            for first in range(0, len(padded), self.width):
                block = padded[first : first + self.width, channel : channel + self.depth]
                blocks.append(block.reshape(-1, self.lanes, *block.shape[1:]).permute(2, 0, 3, 1).flatten())
        return torch.cat(blocks)

    def channels(self, chunk: Expr) -> Expr:
        """Input channels of a chunk."""
        return tirx.min(self.depth, self.ic - chunk * self.depth) if self.ic % self.depth else self.depth

    def plain_at(self, panel: Expr, chunk: Expr, channel: Expr) -> tuple[Expr, Expr]:
        """Where the taps of a chunk's channel for a panel begin in the plain weights, and the vectors of the panel."""
        total = -(-self.oc // self.lanes)
        vectors = tirx.min(self.vectors, total - panel * self.vectors) if total % self.vectors else self.vectors
        before = chunk * (self.depth * total) + panel * self.vectors * self.channels(chunk) + channel * vectors
        return B.bind(before * (9 * self.lanes)), vectors

    def transform(self, plain: Access, panel: Expr, chunk: Expr, block: Access) -> None:
        """Emit the loop that makes one block."""

        def channels(count: int) -> None:
            with B.serial(count) as c:
                self.transform_channel(plain, panel, chunk, block, c)

        part(chunk, self.ic, self.depth, channels)

    def transform_channel(self, plain: Access, panel: Expr, chunk: Expr, block: Access, channel: Expr) -> None:
        """Emit what makes one input channel of a block."""
        lanes, size, matrix = self.lanes, self.outputs + 2, _WEIGHT[self.outputs]
        first, vectors = self.plain_at(panel, chunk, channel)
        for v in range(self.vectors):
            vector = v if vectors is self.vectors else tirx.min(v, vectors - 1)  # beyond the last: the last again
            at = B.bind(first + vector * (9 * lanes))
            taps = [[B.bind(plain.load(at + (i * 3 + j) * lanes, lanes)) for i in (0, 2, 1)] for j in (0, 2, 1)]
            columns = [[combine(row, column, lanes) for column in taps] for row in matrix]
            for i in range(size):
                for j in range(size):
                    value = combine(matrix[j], columns[i], lanes)
                    block.store((i * size + j) * self.step + channel * self.width + v * lanes, value, lanes)


@dataclass(frozen=True)
class TransformWeights(Kernel):
    """Make all blocks of transformed weights: for load time, so that the file holds only the plain weights."""

    weights: WinogradWeights

    name: ClassVar[str] = "winograd-weights"

    @property
    def elements(self) -> int:
        """Size of the transformed weights, in floats."""
        return self.weights.panels * self.weights.chunks * self.weights.block

    def operands(self) -> tuple[Operand, ...]:
        """The plain weights and their transform."""
        return Operand("weight", "float32"), Operand("transformed", "float32", write=True)

    def describe(self) -> str:
        """The variant."""
        return f"{self.name} F({self.weights.outputs},3)"

    def emit(self, *operands: Access) -> None:
        """Emit the parallel loop over blocks."""
        plain, transformed = operands
        weights = self.weights
        with B.parallel(weights.panels * weights.chunks) as number:
            chunk, panel = B.bind(number // weights.panels), B.bind(number % weights.panels)
            weights.transform(plain, panel, chunk, transformed.shifted(number * weights.block))


def combine(row: Sequence[float], values: Sequence[Expr], lanes: int) -> Expr:
    """The sum of `values` weighted by `row`, as a bound expression."""
    total = None
    for factor, value in sorted(zip(row, values, strict=True), key=lambda pair: -pair[0]):
        if factor == 0:
            continue
        term = value if abs(factor) == 1 else value * broadcast(B.float32(abs(factor)), lanes)
        if total is None:
            total = term if factor > 0 else zeros(lanes) - term
        else:
            total = total + term if factor > 0 else total - term
    return B.bind(total)
