"""The output tiles of a Winograd convolution: their input and output transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as B

from .base import Access, Expr, Registers
from .conv_shape import ConvShape, Epilogue, load_first, zeros
from .winograd_weights import Matrix, combine

_INPUT: dict[int, Matrix] = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
_OUTPUT: dict[int, Matrix] = {
    2: ((1, 1 / 2, 1 / 2, 0), (0, 1 / 2, -1 / 2, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}


@dataclass(frozen=True)
class Tile:
    """An output tile: its image, and its row and column in the grid of tiles."""

    n: Expr
    row: Expr
    column: Expr


@dataclass(frozen=True)
class WinogradTiles:
    """The grid of `outputs` x `outputs` tiles that covers the output of `shape`."""

    shape: ConvShape
    outputs: int
    lanes: int

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across an image."""
        return -(-self.shape.height // self.outputs), -(-self.shape.width // self.outputs)

    @property
    def count(self) -> int:
        """Tiles of all images."""
        down, across = self.grid
        return down * across * self.shape.batch

    def tile(self, number: Expr) -> Tile:
        """The tile of that number."""
        down, across = self.grid
        return Tile(B.bind(number // (down * across)), B.bind(number // across % down), B.bind(number % across))

    def read(self, x: Access, tile: Tile, first: Expr, channels: int, sources: Access, step: int) -> None:
        """Transform `channels` of the pixels under `tile` into `sources`, whose points lie `step` apart.

        Pixels that no output needs may be anything and are not read.
        """
        shape, m = self.shape, self.outputs
        x_at, _, _ = shape.pixel(tile.n, tile.row * m, tile.column * m)
        x = x.shifted(x_at + first)
        matrix = _INPUT[m]
        size = m + 2
        down, across = self.grid
        last_row, last_column = B.bind(shape.height + 2 - tile.row * m), B.bind(shape.width + 2 - tile.column * m)
        ragged_height = shape.height % m != 0

        def load(i: int, j: int, c: Expr, lanes: int, count: int) -> Expr:
            inside = []
            # A mask that folds to all-false would be dropped by TVM and the load made whole: decide those cases here.
            if (down == 1 and i >= shape.height + 2) or (across == 1 and j >= shape.width + 2):
                return B.bind(zeros(lanes))
            if ragged_height and down > 1:
                inside.append(i < last_row)
            if across > 1 and shape.width % m and j >= shape.width % m + 2:
                inside.append(j < last_column)
            at = i * shape.x_strides[1] + j * shape.x_strides[2] + c
            if not inside:
                return B.bind(load_first(x, at, lanes, count))
            here = B.Select(tirx.all(*inside) if len(inside) > 1 else inside[0], B.int32(count), B.int32(0))
            return B.bind(x.load(at, lanes, count=here))

        def transform(c: Expr, lanes: int, count: int) -> None:
            half = Registers(size * size, lanes)
            for j in range(size):
                line = [load(i, j, c, lanes, count) for i in range(size)]
                for i in range(size):
                    half[i * size + j] = combine(matrix[i], line, lanes)
            for i in range(size):
                line = [B.bind(half[i * size + j]) for j in range(size)]
                for j in range(size):
                    at = (i * size + j) * step + c
                    value = combine(matrix[j], line, lanes)
                    sources.store(at, value, lanes, count=None if count == lanes else count)

        _over_channels(channels, self.lanes, transform)

    def write(
        self, products: Access, step: int, tile: Tile, first: Expr, channels: int, bias: Access, finish: Epilogue
    ) -> None:
        """Transform `channels` of the products of `tile` back, and store those of its pixels that exist."""
        shape, m = self.shape, self.outputs
        matrix = _OUTPUT[m]
        size = m + 2
        _, y_at, residual_at = shape.pixel(tile.n, tile.row * m, tile.column * m)
        y_at, residual_at = B.bind(y_at), B.bind(residual_at)
        rows_left, columns_left = B.bind(shape.height - tile.row * m), B.bind(shape.width - tile.column * m)
        ragged_height = shape.height % m != 0
        ragged_width = shape.width % m

        def transform(c: Expr, lanes: int, count: int) -> None:
            half = Registers(m * size, lanes)
            for j in range(size):
                line = [B.bind(products.load((i * size + j) * step + c, lanes)) for i in range(size)]
                for i in range(m):
                    half[i * size + j] = combine(matrix[i], line, lanes)
            start = B.bind(load_first(bias, first + c, lanes, count))
            for i in range(m):
                line = [B.bind(half[i * size + j]) for j in range(size)]
                for j in range(m):
                    value = B.bind(combine(matrix[j], line, lanes) + start)
                    _, y_step, residual_step = shape.pixel(0, i, j)

                    def store(value: Expr = value, y_step: int = y_step, residual_step: int = residual_step) -> None:
                        finish(value, y_at + y_step + first + c, residual_at + residual_step + first + c, lanes, count)

                    exists = [i < rows_left] * ragged_height + [j < columns_left] * (0 < ragged_width <= j)
                    if not exists:
                        store()
                        continue
                    with B.If(tirx.all(*exists) if len(exists) > 1 else exists[0]), B.Then():
                        store()

        _over_channels(channels, self.lanes, transform)


def _over_channels(channels: int, lanes: int, body: Callable[[Expr, int, int], None]) -> None:
    """Emit `body(first channel, lanes, count)` for all channels, a vector at a time."""
    full, rest = divmod(channels, lanes)
    if full:
        with B.serial(full) as i:
            body(B.bind(i * lanes), lanes, lanes)
    if rest:
        body(B.int32(full * lanes), lanes, rest)
