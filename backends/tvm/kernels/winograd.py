"""Winograd convolution F(m x m, 3x3): fewer multiplications for 3x3 kernels of stride 1, in cached scratch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from ....target import Target
from .base import Access, Expr, Kernel, Operand, Registers, broadcast, scratch
from .conv_shape import LINE, ConvKernel, ConvShape, Epilogue, Prefetch, load_first, zeros
from .gemm import Chunks

_CHUNK = 128  # products summed on their own: half of what others sum, as the transforms enlarge errors
_LONGEST = _CHUNK * 3 // 2

Matrix = tuple[tuple[float, ...], ...]

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
_WEIGHT: dict[int, Matrix] = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}
_OUTPUT: dict[int, Matrix] = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}


@dataclass(frozen=True)
class WinogradWeights(Kernel):
    """Transform 3x3 weights for `WinogradConv`: run once at load, so that the file holds only the plain weights.

    Reads [kh, kw, ic, oc] (`WinogradConv.pack`), writes [points, panels, ic, panel width] with zeros beyond `oc`:
    `elements` floats.
    """

    ic: int
    oc: int
    outputs: int
    lanes: int
    vectors: int

    name: ClassVar[str] = "winograd-weights"

    @property
    def elements(self) -> int:
        """Size of the transformed weights, in floats."""
        width = self.lanes * self.vectors
        return -(-self.oc // width) * width * self.ic * (self.outputs + 2) ** 2

    def operands(self) -> tuple[Operand, ...]:
        """The plain weights and their transform."""
        return Operand("weight", "float32"), Operand("transformed", "float32", write=True)

    def describe(self) -> str:
        """The number of points."""
        return f"{self.name} F({self.outputs},3)"

    def emit(self, *operands: Access) -> None:
        """Emit the loop over input channels and vectors of output channels."""
        weight, transformed = operands
        lanes, points = self.lanes, self.outputs + 2
        matrix = _WEIGHT[self.outputs]
        width = lanes * self.vectors
        panels = -(-self.oc // width)
        with B.parallel(self.ic) as c, B.serial(panels * self.vectors) as vector:
            first = B.bind(vector * lanes)
            count = B.bind(tirx.max(tirx.min(self.oc - first, lanes), 0))
            taps = [
                [
                    B.bind(weight.load((i * 3 + j) * (self.ic * self.oc) + c * self.oc + first, lanes, count=count))
                    for j in range(3)
                ]
                for i in range(3)
            ]
            columns = [[_combine(row, [taps[i][j] for i in range(3)], lanes) for j in range(3)] for row in matrix]
            panel, place = B.bind(vector // self.vectors), B.bind(vector % self.vectors)
            for i in range(points):
                for j in range(points):
                    value = _combine(matrix[j], columns[i], lanes)
                    at = (((i * points + j) * panels + panel) * self.ic + c) * width + place * lanes
                    transformed.store(at, value, lanes)


@dataclass(frozen=True)
class WinogradConv(ConvKernel):
    """3x3 convolution of stride 1 by F(`outputs` x `outputs`, 3x3).

    A task is `tiles` output tiles: input transform, one matrix product a point, output transform with the epilogue,
    all in scratch memory of the running thread. The weight operand is what `weights()` writes.
    """

    outputs: int
    lanes: int
    vectors: int
    columns: int
    tiles: int
    parallel: bool = True

    name: ClassVar[str] = "winograd-conv"

    def __post_init__(self) -> None:
        if not possible(self.shape):
            raise ValueError(
                f"shape must be 3x3 with stride, dilation and groups 1, not {self.shape.text()}; use DirectConv"
            )

    @classmethod
    def choose(cls, shape: ConvShape, target: Target, outputs: int = 2) -> WinogradConv:
        """The kernel whose scratch memory fits the second cache of `target`.

        F(2, 3) is the default: its error is that of a direct convolution, where F(4, 3) has about 2.5 times as much.
        Inside a network, where weights come from memory, its 1.8 times as many weights also cost less than 4 times.
        """
        lanes = target.vector.lanes
        total = -(-shape.width // outputs) * -(-shape.height // outputs) * shape.batch
        points = (outputs + 2) ** 2
        # Weights that do not stay in cache are read once a task: few large tasks. Else small scratch memory.
        weights_stay = points * shape.ic * shape.oc * 4 <= target.l2 // 2
        room = target.l2 // 4 if weights_stay else target.l2
        most = max(1, room // (points * (shape.ic + shape.oc) * 4))
        rounds = -(-total // (most * target.cores))
        tiles = -(-total // (rounds * target.cores))
        vectors = min(2, -(-shape.oc // lanes))
        widest = 13 if target.vector.registers >= 32 else 6
        columns = -(-tiles // -(-tiles // widest))
        return cls(shape, outputs, lanes, vectors, columns, tiles)

    def weights(self) -> WinogradWeights:
        """The kernel that makes this kernel's weight operand from what `pack` returns."""
        return WinogradWeights(self.shape.ic, self.shape.oc, self.outputs, self.lanes, self.vectors)

    def describe(self) -> str:
        """The variant, register tile and size of a task."""
        return f"{self.name} F({self.outputs},3) tile={self.columns}x{self.vectors}x{self.lanes} tiles={self.tiles}"

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay out `weight` [oc, ic, 3, 3] as `weights()` reads it: [3, 3, ic, oc], flat."""
        expected = (self.shape.oc, self.shape.ic, 3, 3)
        if tuple(weight.shape) != expected:
            raise ValueError(f"weight must have shape {expected}, not {tuple(weight.shape)}")
        return weight.permute(2, 3, 1, 0).reshape(-1).contiguous()

    def emit(self, *operands: Access) -> None:
        """Emit the parallel loop over blocks of output tiles."""
        shape, tiles = self.shape, self.tiles
        x, weight, bias, *residual, y = operands
        points = (self.outputs + 2) ** 2
        down, across = -(-shape.height // self.outputs), -(-shape.width // self.outputs)
        total = down * across * shape.batch
        blocks = -(-total // tiles)
        padded_oc = -(-shape.oc // (self.lanes * self.vectors)) * self.lanes * self.vectors
        # A line more than needed: else the points of one tile often lie a multiple of 4 KiB apart, in one set of L1.
        source_step, product_step = tiles * shape.ic + LINE, tiles * padded_oc + LINE
        finish = Epilogue(shape, residual[0] if residual else None, y)

        def each(block: Expr, body: Callable[[Expr, Expr, Expr, Expr], None]) -> None:
            """Emit `body(n, row, column, tile)` for the tiles of a block."""
            with B.serial(tiles) as tile:
                number = B.bind(block * tiles + tile)

                def one() -> None:
                    body(
                        B.bind(number // (down * across)),
                        B.bind(number // across % down),
                        B.bind(number % across),
                        tile,
                    )

                if total % tiles == 0:
                    one()
                    return
                with B.If(number < total), B.Then():
                    one()

        loop = B.parallel if self.parallel and blocks > 1 else B.serial
        with loop(blocks) as block:
            sources = scratch(points * source_step)
            products = scratch(points * product_step)

            def read(n: Expr, row: Expr, column: Expr, tile: Expr) -> None:
                self._input(x, sources, n, row, column, tile * shape.ic, source_step)

            def write(n: Expr, row: Expr, column: Expr, tile: Expr) -> None:
                self._output(products, bias, finish, n, row, column, tile * padded_oc, product_step)

            each(block, read)
            self._multiply(sources, weight, products, source_step, product_step, padded_oc)
            each(block, write)

    def _input(self, x: Access, sources: Access, n: Expr, row: Expr, column: Expr, to: Expr, step: int) -> None:
        """Transform the pixels under one output tile. Pixels that no output needs may be anything and are not read."""
        shape, m = self.shape, self.outputs
        x_at, _, _ = shape.pixel(n, row * m, column * m)
        x = x.shifted(x_at)
        matrix = _INPUT[m]
        size = m + 2
        down, across = -(-shape.height // m), -(-shape.width // m)
        last_row, last_column = B.bind(shape.height + 2 - row * m), B.bind(shape.width + 2 - column * m)
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
                    half[i * size + j] = _combine(matrix[i], line, lanes)
            for i in range(size):
                line = [B.bind(half[i * size + j]) for j in range(size)]
                for j in range(size):
                    at = (i * size + j) * step + to + c
                    value = _combine(matrix[j], line, lanes)
                    sources.store(at, value, lanes, count=None if count == lanes else count)

        _over_channels(shape.ic, self.lanes, transform)

    def _multiply(
        self, sources: Access, weight: Access, products: Access, source_step: int, product_step: int, padded_oc: int
    ) -> None:
        """products[point] = sources[point] @ weight[point], for every point."""
        shape, lanes, vectors, columns = self.shape, self.lanes, self.vectors, self.columns
        points, width = (self.outputs + 2) ** 2, self.lanes * self.vectors
        tiles, panels, unroll = self.tiles, padded_oc // width, 4
        turns = -(-tiles // columns)
        rounds = shape.ic // unroll
        share = -(-shape.ic * width // (LINE * turns))  # lines of the next panel that one register tile asks for

        def product(point: Expr, panel: Expr, first: Expr, pixels: int) -> None:
            source = sources.shifted(point * source_step + first * shape.ic)
            w = weight.shifted((point * panels + panel) * (shape.ic * width))
            ahead = B.bind(shape.ic * width + first // columns * (share * LINE))
            prefetch = Prefetch(share, lambda i: w.prefetch(ahead + i * LINE))
            sums = Registers(pixels * vectors, lanes)
            for slot in range(pixels * vectors):
                sums[slot] = zeros(lanes)

            def step(k: Expr) -> None:
                panel_row = [B.bind(w.load(k * width + v * lanes, lanes)) for v in range(vectors)]
                for p in range(pixels):
                    value = B.bind(source.load(p * shape.ic + k, lanes, stride=0))
                    for v in range(vectors):
                        sums[p * vectors + v] = sums[p * vectors + v] + value * panel_row[v]

            def several(begin: Expr, count: Expr) -> None:
                with B.serial(count) as i:
                    k = begin + i
                    prefetch.emit(k, rounds)
                    for u in range(unroll):
                        step(k * unroll + u)

            chunks = Chunks(sums, pixels * vectors) if shape.ic > _LONGEST else None
            if chunks:
                chunks.split(rounds, round(shape.ic / _CHUNK), several)
            elif rounds > 1:
                several(B.int32(0), rounds)
            for u in range(rounds * unroll if rounds > 1 else 0, shape.ic):
                step(u)
            if chunks:
                chunks.close()
                chunks.finish()
            at = B.bind(point * product_step + first * padded_oc + panel * width)
            for p in range(pixels):
                for v in range(vectors):
                    products.store(at + p * padded_oc + v * lanes, sums[p * vectors + v], lanes)

        with B.serial(points) as point, B.serial(panels) as panel:
            if tiles >= columns:
                with B.serial(tiles // columns) as i:
                    product(point, panel, B.bind(i * columns), columns)
            if tiles % columns:
                product(point, panel, B.int32(tiles // columns * columns), tiles % columns)

    def _output(
        self,
        products: Access,
        bias: Access,
        finish: Epilogue,
        n: Expr,
        row: Expr,
        column: Expr,
        source: Expr,
        step: int,
    ) -> None:
        """Transform one output tile back, and store those of its pixels that exist."""
        shape, m = self.shape, self.outputs
        matrix = _OUTPUT[m]
        size = m + 2
        _, y_at, residual_at = shape.pixel(n, row * m, column * m)
        y_at, residual_at = B.bind(y_at), B.bind(residual_at)
        rows_left, columns_left = B.bind(shape.height - row * m), B.bind(shape.width - column * m)
        ragged_height = shape.height % m != 0
        ragged_width = shape.width % m

        def transform(c: Expr, lanes: int, count: int) -> None:
            half = Registers(m * size, lanes)
            for j in range(size):
                line = [B.bind(products.load((i * size + j) * step + source + c, lanes)) for i in range(size)]
                for i in range(m):
                    half[i * size + j] = _combine(matrix[i], line, lanes)
            start = B.bind(load_first(bias, c, lanes, count))
            for i in range(m):
                line = [B.bind(half[i * size + j]) for j in range(size)]
                for j in range(m):
                    value = B.bind(_combine(matrix[j], line, lanes) + start)
                    _, y_step, residual_step = shape.pixel(0, i, j)

                    def store(value: Expr = value, y_step: int = y_step, residual_step: int = residual_step) -> None:
                        finish(value, y_at + y_step + c, residual_at + residual_step + c, lanes, count)

                    exists = [i < rows_left] * ragged_height + [j < columns_left] * (0 < ragged_width <= j)
                    if not exists:
                        store()
                        continue
                    with B.If(tirx.all(*exists) if len(exists) > 1 else exists[0]), B.Then():
                        store()

        _over_channels(shape.oc, self.lanes, transform)


def possible(shape: ConvShape) -> bool:
    """Whether Winograd can compute `shape` at all."""
    return shape.kernel == (3, 3) and shape.stride == (1, 1) and shape.dilation == (1, 1) and shape.groups == 1


def profitable(shape: ConvShape, target: Target) -> bool:
    """Whether `WinogradConv` is expected to be faster than `DirectConv` and accurate enough.

    It needs channels enough to fill vectors and to pay for the transforms, and output tiles enough on each core to pay
    for reading weights that are 16/9 times the plain ones; tiles that overhang the image are work for nothing.
    """
    if not possible(shape) or shape.ic < 32 or shape.oc < 32:
        return False
    tiles = -(-shape.height // 2) * -(-shape.width // 2)
    return tiles * shape.batch >= 12 * target.cores and 4 * tiles <= shape.height * shape.width * 4 // 3


def _over_channels(channels: int, lanes: int, body: Callable[[Expr, int, int], None]) -> None:
    """Emit `body(first channel, lanes, count)` for all channels, a vector at a time."""
    full, rest = divmod(channels, lanes)
    if full:
        with B.serial(full) as i:
            body(B.bind(i * lanes), lanes, lanes)
    if rest:
        body(B.int32(full * lanes), lanes, rest)


def _combine(row: Sequence[float], values: Sequence[Expr], lanes: int) -> Expr:
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
