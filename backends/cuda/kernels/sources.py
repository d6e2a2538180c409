"""Where the rows of a product's factors come from: matrices, and images that a convolution slides over.

A source is read in chunks of adjacent elements. A thread reads chunks of a few rows, always the same ones, at the same
place of each slice of depth: `rows` is told them once, `chunk` then yields the index of a chunk's first element and how
many of its elements exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as B

from ...tvm.kernels.base import Expr

Chunk = Callable[[int, Expr], tuple[Expr, Expr]]  # of a row's number and depth: its index, and how many elements exist


class Source(ABC):
    """The factor of a product, `depth` elements a row."""

    @abstractmethod
    def chunks(self, start: Expr, rows: Sequence[Expr], count: int, depth: int, chunk: int) -> Chunk:
        """How to find the chunks, of `chunk` elements, of these rows (of `count`) in the matrix that begins at `start`.

        `depth` is that of the product. Indices of chunks are multiples of `chunk` where `start` is.
        """


@dataclass(frozen=True)
class MatrixSource(Source):
    """Rows `stride` elements apart."""

    stride: int

    def chunks(self, start: Expr, rows: Sequence[Expr], count: int, depth: int, chunk: int) -> Chunk:
        firsts = [B.bind(start + row * self.stride) for row in rows]

        def find(number: int, k: Expr) -> tuple[Expr, Expr]:
            left = B.min(B.max(depth - k, 0), chunk) if depth % chunk else tirx.Select(k < depth, chunk, 0)
            return firsts[number] + k, tirx.Select(rows[number] < count, left, 0)

        return find


@dataclass(frozen=True)
class ImageSource(Source):
    """The pixels that each output pixel of a convolution reads, channels innermost, nothing beyond the edges.

    `strides` are those of batch, rows and columns of pixels in elements; channels are dense, `channels` of each pixel
    are read. `size` and `out` are heights and widths, `padding` is in front of the first row and column.
    """

    strides: tuple[int, int, int]
    size: tuple[int, int]
    channels: int
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]

    def chunks(self, start: Expr, rows: Sequence[Expr], count: int, depth: int, chunk: int) -> Chunk:
        width, area = self.out[1], self.out[0] * self.out[1]
        corners = []
        for row in rows:
            y = B.bind(row % area // width * self.stride[0] - self.padding[0])
            x = B.bind(row % width * self.stride[1] - self.padding[1])
            first = B.bind(start + row // area * self.strides[0] + y * self.strides[1] + x * self.strides[2])
            corners.append((y, x, first))

        def find(number: int, k: Expr) -> tuple[Expr, Expr]:
            y, x, first = corners[number]
            tap, channel = k // self.channels, k % self.channels
            down = tap // self.kernel[1] * self.dilation[0]
            right = tap % self.kernel[1] * self.dilation[1]
            inside = tirx.all(
                rows[number] < count, k < depth,
                y + down >= 0, y + down < self.size[0], x + right >= 0, x + right < self.size[1],
            )  # fmt: skip
            return first + down * self.strides[1] + right * self.strides[2] + channel, tirx.Select(inside, chunk, 0)

        return find
