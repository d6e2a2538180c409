"""Linear layers: y = activation(x @ W^T + bias + residual), with the weight packed for the machine at compile time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from ....target import Target
from .base import Access, Expr, Kernel, Operand, Registers, broadcast
from .gemm import accumulate, best_rows, counts, fits, part, rows_cycles, tasks
from .vmath import activate


def pack(weight: torch.Tensor, width: int) -> torch.Tensor:
    """Reorder a weight [n, k] into panels [ceil(n / width)][k][width], zeros where n ends.

    Element (n, k) is at flat index `((n // width) * K + k) * width + n % width`.
    """
    n, k = weight.shape
    panels = -(-n // width)
    padded = weight.new_zeros(panels * width, k)
    padded[:n] = weight
    return padded.reshape(panels, width, k).transpose(1, 2).contiguous()


@dataclass(frozen=True)
class Rows:
    """Where the rows of a matrix lie: row (o, i) starts `o * outer + i * inner` elements on; columns are dense."""

    outer: int
    inner: int


@dataclass(frozen=True, kw_only=True)
class Linear(Kernel):
    """y[m, n] = activation(x[m, k] @ W^T + bias + residual) for m = outer * inner rows.

    Operands: x, weight as `pack` gives it, bias [n] if `bias`, residual if it has rows, y.
    A tile is `tile_rows` rows by `tile_vectors` vectors of `lanes` columns. `order` 'nm' walks the rows inside a panel
    of weights (each core reads its share of the weights once), 'mn' the panels inside a block of `block` row tiles.
    `prefetch` brings the next panel to L2 while one is used.
    """

    name: ClassVar[str] = "linear"

    outer: int
    inner: int
    n: int
    k: int
    x: Rows
    y: Rows
    residual: Rows | None = None
    bias: bool = False
    activation: str = "none"
    lanes: int
    tile_rows: int
    tile_vectors: int
    order: str = "nm"
    block: int
    prefetch: bool = False

    @property
    def width(self) -> int:
        """Columns of one panel of the packed weight."""
        return self.lanes * self.tile_vectors

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """The packed form of `weight` [n, k] that this kernel reads; see the function `pack`."""
        return pack(weight, self.width)

    def operands(self) -> tuple[Operand, ...]:
        names = ["x", "weight"] + ["bias"] * self.bias + ["residual"] * (self.residual is not None)
        return (*(Operand(name, "float32") for name in names), Operand("y", "float32", write=True))

    def flops(self) -> int:
        return 2 * self.outer * self.inner * self.n * self.k

    def describe(self) -> str:
        return f"linear {self.tile_rows}x{self.tile_vectors} {self.order} block={self.block}"

    def emit(self, *operands: Access) -> None:
        panels, tiles = -(-self.n // self.width), self.outer * -(-self.inner // self.tile_rows)
        blocks = -(-tiles // self.block)
        with tasks(panels * blocks, self.flops()) as task:
            panel, first = (task // blocks, task % blocks) if self.order == "nm" else (task % panels, task // panels)
            panel, first = B.bind(panel), B.bind(first * self.block)
            part(panel, self.n, self.width, lambda columns: self._rows(operands, panel, columns, first, tiles))

    def _rows(self, operands: tuple[Access, ...], panel: Expr, columns: int, first: Expr, tiles: int) -> None:
        per_outer = -(-self.inner // self.tile_rows)

        def run(count: int) -> None:
            with B.serial(count) as step:
                tile = B.bind(first + step)
                outer, index = B.bind(tile // per_outer), B.bind(tile % per_outer)
                row = B.bind(index * self.tile_rows)

                def body(rows: int) -> None:
                    self._tile(operands, panel, columns, outer, row, rows)

                part(index, self.inner, self.tile_rows, body)

        part(first // self.block, tiles, self.block, run)

    def _prefetch(self, weight: Access, tile: Expr) -> Callable[[Expr], None] | None:
        """While a panel is used, bring the next one to L2: its share of the panel during each row tile."""
        tiles = self.outer * -(-self.inner // self.tile_rows)
        if not self.prefetch or self.k < 4:
            return None
        panel = self.k * self.width
        per_step = -(-panel // (16 * tiles * (self.k // 4)))

        def lines(step: Expr) -> None:
            for line in range(per_step):
                weight.prefetch(panel + ((tile * (self.k // 4) + step) * per_step + line) * 16)

        return lines

    def _tile(self, operands: tuple[Access, ...], panel: Expr, columns: int, outer: Expr, row: Expr, rows: int) -> None:
        named = dict(zip((op.name for op in self.operands()), operands, strict=True))
        lanes, valid = self.lanes, counts(columns, self.lanes)
        vectors = len(valid)
        column = B.bind(panel * self.width)

        def at(name: str, where: Rows) -> Access:
            return named[name].shifted(outer * where.outer + row * where.inner)

        x, weight = at("x", self.x), named["weight"].shifted(panel * (self.k * self.width))
        tile = Registers(rows * vectors, lanes)
        for j in range(vectors):
            start = broadcast(B.float32(0), lanes)
            if self.bias:
                start = B.bind(named["bias"].load(column + j * lanes, lanes, count=valid[j]))
            for i in range(rows):
                tile[i * vectors + j] = start
        accumulate(
            tile,
            rows,
            vectors,
            self.k,
            lambda i, k: x.load(i * self.x.inner + k),
            lambda j, k: weight.load(k * self.width + j * lanes, lanes),
            self._prefetch(weight, B.bind(outer * -(-self.inner // self.tile_rows) + row // self.tile_rows)),
        )
        y = at("y", self.y).shifted(column)
        residual = at("residual", self.residual).shifted(column) if self.residual else None
        for i in range(rows):
            for j in range(vectors):
                value = tile[i * vectors + j]
                if residual is not None and self.residual is not None:
                    value = value + residual.load(i * self.residual.inner + j * lanes, lanes, count=valid[j])
                value = _activate(self.activation, value, lanes)
                y.store(i * self.y.inner + j * lanes, value, lanes, count=valid[j])

    @classmethod
    def choose(
        cls,
        m: int,
        n: int,
        k: int,
        *,
        target: Target,
        outer: int = 1,
        x: Rows | None = None,
        y: Rows | None = None,
        residual: Rows | None = None,
        bias: bool = False,
        activation: str = "none",
    ) -> Linear:
        """The kernel for `m` rows (`outer` groups of m / outer) with tile and loop order chosen for `target`.

        Rows are dense where not given.
        """
        inner, lanes, registers = m // outer, target.vector.lanes, target.vector.registers
        x, y = x or Rows(inner * k, k), y or Rows(inner * n, n)
        # Rows a multiple of 4 KiB apart share one set of L1, which has eight ways or little more.
        most = 8 if 4 * x.inner % 4096 == 0 else inner

        def height(vectors: int) -> int:
            return min(best_rows(inner, vectors, registers), most)

        def cycles(vectors: int) -> float:
            panels = -(-n // (vectors * lanes))
            shares = panels if inner * outer > 2 * height(vectors) else -(-panels // target.cores) * target.cores
            return shares * rows_cycles(inner, height(vectors), vectors)

        vectors = min((v for v in range(1, 17) if fits(1, v, registers)), key=cycles)
        rows = height(vectors)
        tiles = outer * -(-inner // rows)
        order, blocks = _blocks(m, n, k, -(-n // (vectors * lanes)), tiles, target)
        return cls(
            outer=outer,
            inner=inner,
            n=n,
            k=k,
            x=x,
            y=y,
            residual=residual,
            bias=bias,
            activation=activation,
            lanes=lanes,
            tile_rows=rows,
            tile_vectors=vectors,
            order=order,
            block=-(-tiles // blocks),
            # Measured with weights from memory: 270 becomes 300 to 330 GFLOP/s; from cache it costs nothing.
            prefetch=order == "nm" and blocks == 1 and tiles > 1 and k >= 4,
        )


def _blocks(m: int, n: int, k: int, panels: int, tiles: int, target: Target) -> tuple[str, int]:
    """The loop order, and into how many blocks the rows are cut."""
    x, weight = 4 * m * k, 4 * n * k
    if weight > x and x <= target.l2 // 2:
        level = panels % target.cores == 0 or panels >= 12 * target.cores
        return "nm", 1 if level else min(tiles, target.cores)
    # Weights that fit in L2 leave room for a small block of x; the others are streamed, the more rarely the better.
    room = target.l2 // 8 if weight <= target.l2 // 2 else target.l2 // 3
    rounds = -(-x // (room * target.cores))
    return "mn", min(tiles, rounds * target.cores)


def _activate(name: str, value: Expr, lanes: int) -> Expr:
    if name == "none":
        return value
    return activate(name, B.bind(value), lanes)
