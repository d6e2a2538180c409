"""Linear layers: y = activation(x @ W^T + bias + residual), with the weight packed for the machine at compile time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Kernel, Operand, Registers, broadcast
from .gemm import accumulate, best_rows, counts, fits, part, rows_cycles, tasks
from .linear_shape import LinearShape, Rows
from .vmath import convert


def pack(weight: torch.Tensor, width: int) -> torch.Tensor:
    """Reorder a weight [n, k] into panels [ceil(n / width)][k][width], zeros where n ends.

    Element (n, k) is at flat index `((n // width) * K + k) * width + n % width`.
    """
    n, k = weight.shape
    panels = -(-n // width)
    padded = weight.new_zeros(panels * width, k)
    padded[:n] = weight
    return padded.reshape(panels, width, k).transpose(1, 2).contiguous()


_WAITING = 0.08  # part of its time that a core may wait; panels that are not prefetched from memory cost 0.12


@dataclass(frozen=True, kw_only=True)
class Linear(Kernel):
    """A linear layer by register tiles of `tile_rows` rows and `tile_vectors` vectors of `lanes` columns.

    Operands: those of the shape, the weight as `pack` gives it. `order` 'nm' walks the rows inside a panel of weights
    (each core reads its share of the weights once), 'mn' the panels inside a block of `block` row tiles.
    `prefetch` brings the next panel to L2 while one is used. With `slices` the depth k is cut into that many equal
    parts, so that a core's part of x stays in L2 for all its panels; sums wait in y from one part to the next.
    """

    name: ClassVar[str] = "linear"

    shape: LinearShape
    lanes: int
    tile_rows: int
    tile_vectors: int
    order: str = "nm"
    block: int
    slices: int = 1
    shares: int = 1  # with slices: into how many runs of panels the panels are cut, one a task
    prefetch: bool = False

    @property
    def width(self) -> int:
        """Columns of one panel of the packed weight."""
        return self.lanes * self.tile_vectors

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """The packed form of `weight` [n, k] that this kernel reads; see the function `pack`."""
        return pack(weight, self.width)

    def operands(self) -> tuple[Operand, ...]:
        return self.shape.operands()

    def named(self, operands: Sequence[Access]) -> dict[str, Access]:
        """The operands by name."""
        return dict(zip((op.name for op in self.operands()), operands, strict=True))

    def flops(self) -> int:
        return self.shape.flops

    def describe(self) -> str:
        sliced = f" slices={self.slices}" if self.slices > 1 else ""
        return f"linear {self.tile_rows}x{self.tile_vectors} {self.order} block={self.block}{sliced}"

    def emit(self, *operands: Access) -> None:
        panels, tiles = -(-self.shape.n // self.width), self.shape.outer * -(-self.shape.inner // self.tile_rows)
        blocks = -(-tiles // self.block)
        if self.slices > 1:
            self._sliced(self.named(operands), panels, tiles, blocks)
            return
        named = self.named(operands)
        with tasks(panels * blocks, self.flops()) as task:
            panel, first = (task // blocks, task % blocks) if self.order == "nm" else (task % panels, task // panels)
            panel, first = B.bind(panel), B.bind(first * self.block)
            self.panel(named, panel, first, tiles, B.int32(0))

    def _sliced(self, named: dict[str, Access], panels: int, tiles: int, blocks: int) -> None:
        per_share = -(-panels // self.shares)
        with tasks(self.shares * blocks, self.flops()) as task:
            share, first = B.bind(task // blocks), B.bind(task % blocks * self.block)
            with B.serial(self.slices) as piece:
                with B.serial(B.min(B.int32(per_share), panels - share * per_share)) as step:
                    self.panel(named, B.bind(share * per_share + step), first, tiles, piece)

    def panel(self, named: dict[str, Access], panel: Expr, first: Expr, tiles: int, piece: Expr) -> None:
        """The rows from tile `first` on, against one panel of weights, for one slice of the depth."""
        part(panel, self.shape.n, self.width, lambda columns: self._rows(named, panel, columns, first, tiles, piece))

    def _rows(self, named: dict[str, Access], panel: Expr, columns: int, first: Expr, tiles: int, piece: Expr) -> None:
        per_outer = -(-self.shape.inner // self.tile_rows)

        def run(count: int) -> None:
            with B.serial(count) as step:
                tile = B.bind(first + step)
                outer, index = B.bind(tile // per_outer), B.bind(tile % per_outer)
                row = B.bind(index * self.tile_rows)

                def body(rows: int) -> None:
                    self._tile(named, panel, columns, outer, row, rows, piece)

                part(index, self.shape.inner, self.tile_rows, body)

        part(first // self.block, tiles, self.block, run)

    def _prefetch(self, weight: Access, tile: Expr) -> Callable[[Expr], None] | None:
        """While a panel is used, bring the next one to L2: its share of the panel during each row tile."""
        tiles, depth = self.shape.outer * -(-self.shape.inner // self.tile_rows), self.shape.k // self.slices
        if not self.prefetch or depth < 4:
            return None
        per_step = -(-depth * self.width // (16 * tiles * (depth // 4)))

        def lines(step: Expr) -> None:
            for line in range(per_step):
                weight.prefetch(self.shape.k * self.width + ((tile * (depth // 4) + step) * per_step + line) * 16)

        return lines

    def _tile(
        self,
        named: dict[str, Access],
        panel: Expr,
        columns: int,
        outer: Expr,
        row: Expr,
        rows: int,
        piece: Expr,
    ) -> None:
        shape = self.shape
        lanes, valid = self.lanes, counts(columns, self.lanes)
        vectors = len(valid)
        column = B.bind(panel * self.width)

        def at(name: str, where: Rows) -> Access:
            return named[name].shifted(outer * where.outer + row * where.inner)

        x = at("x", shape.x).shifted(piece * (shape.k // self.slices))
        y = at("y", shape.y).shifted(column)
        residual = at("residual", shape.residual).shifted(column) if shape.residual else None
        tile = Registers(rows * vectors, lanes)

        early = shape.bias and _bias_first(shape.activation)

        def bias() -> list[Expr]:
            return [B.bind(named["bias"].load(column + j * lanes, lanes, count=n)) for j, n in enumerate(valid)]

        def start() -> None:
            first = bias() if early else [broadcast(B.float32(0), lanes)] * vectors
            for slot in range(rows * vectors):
                tile[slot] = first[slot % vectors]

        def resume() -> None:
            for i in range(rows):
                for j in range(vectors):
                    tile[i * vectors + j] = y.load(i * shape.y.inner + j * lanes, lanes, count=valid[j])

        def store(finish: Callable[[Expr, int, int], Expr]) -> None:
            for i in range(rows):
                for j in range(vectors):
                    value = convert(finish(tile[i * vectors + j], i, j), y.dtype)
                    y.store(i * shape.y.inner + j * lanes, value, lanes, count=valid[j])

        def conclude() -> None:
            last = bias() if shape.bias and not early else []
            for slot in range(rows * vectors if last else 0):
                tile[slot] = tile[slot] + last[slot % vectors]

            def finished(value: Expr, i: int, j: int) -> Expr:
                if residual is not None and shape.residual is not None:
                    added = residual.load(i * shape.residual.inner + j * lanes, lanes, count=valid[j])
                    value = value + convert(added, "float32")
                return shape.activate(value, lanes)

            store(finished)

        self._at_slice(piece.equal(0), start, resume)
        number = B.bind(outer * -(-shape.inner // self.tile_rows) + row // self.tile_rows)
        self.accumulate(tile, rows, vectors, x, self.weight(named, panel, piece), number)
        last = piece.equal(self.slices - 1)
        self._at_slice(last, conclude, lambda: store(lambda value, i, j: value))

    def _at_slice(self, condition: Expr, then: Callable[[], None], other: Callable[[], None]) -> None:
        """`then` where the condition holds, else `other`; always `then` when the depth is in one piece."""
        if self.slices == 1:
            then()
            return
        with B.If(condition):
            with B.Then():
                then()
            with B.Else():
                other()

    def weight(self, named: dict[str, Access], panel: Expr, piece: Expr) -> dict[str, Access]:
        """What holds the weights of a panel, for one slice of the depth."""
        depth = self.shape.k // self.slices
        at = panel * (self.shape.k * self.width) + piece * (depth * self.width)
        return {"weight": named["weight"].shifted(at)}

    def accumulate(
        self, tile: Registers, rows: int, vectors: int, x: Access, weight: dict[str, Access], number: Expr
    ) -> None:
        """Add the products of `rows` rows of x with a panel's weights to `tile`, which is row tile `number`."""
        panel, width, lanes = weight["weight"], self.width, self.lanes
        accumulate(
            tile,
            rows,
            vectors,
            self.shape.k // self.slices,
            lambda i, k: x.load(i * self.shape.x.inner + k),
            lambda j, k: panel.load(k * width + j * lanes, lanes),
            self._prefetch(panel, number),
        )

    @classmethod
    def choose(cls, shape: LinearShape, target: CpuTarget) -> Linear:
        """The kernel with tile and loop order chosen for `target`."""
        outer, inner, n, k = shape.outer, shape.inner, shape.n, shape.k
        lanes, registers = target.vector.lanes, target.vector.registers
        # Rows a multiple of 4 KiB apart share one set of L1, which has as many ways as it has such pages.
        most = max(1, target.l1 // 4096) if 4 * shape.x.inner % 4096 == 0 else inner

        def height(vectors: int) -> int:
            return min(best_rows(inner, vectors, registers), most)

        def cycles(vectors: int) -> float:
            panels = -(-n // (vectors * lanes))
            shares = panels if inner * outer > 2 * height(vectors) else -(-panels // target.cores) * target.cores
            return shares * rows_cycles(inner, height(vectors), vectors)

        vectors = min((v for v in range(1, 17) if fits(1, v, registers)), key=cycles)
        rows = height(vectors)
        tiles = outer * -(-inner // rows)
        panels = -(-n // (vectors * lanes))
        order, blocks = _blocks(shape.m, n, k, panels, tiles, target)
        slices = _slices(shape.m // blocks, k, target) if order == "nm" else 1
        return cls(
            shape=shape,
            lanes=lanes,
            tile_rows=rows,
            tile_vectors=vectors,
            order=order,
            block=-(-tiles // blocks),
            slices=slices,
            shares=-(-panels // -(-panels // target.cores)) if slices > 1 and blocks == 1 else 1,
            # Measured with weights from memory: 270 becomes 300 to 330 GFLOP/s; from cache it costs nothing.
            prefetch=order == "nm" and blocks == 1 and tiles > 1 and k >= 4,
        )


def _blocks(m: int, n: int, k: int, panels: int, tiles: int, target: CpuTarget) -> tuple[str, int]:
    """The loop order, and into how many blocks the rows are cut."""
    x, weight = 4 * m * k, 4 * n * k
    if weight > 2 * x or (weight > x and x <= target.l2 // 2):
        # Waiting for another core's last panel costs less than what whole columns save: panels read once, and ahead.
        waits = -(-panels // target.cores) * target.cores / panels - 1
        return "nm", 1 if waits <= _WAITING else min(tiles, target.cores)
    # Weights that fit in L2 leave room for a small block of x; the others are streamed, the more rarely the better.
    room = target.l2 // 8 if weight <= target.l2 // 2 else target.l2 // 3
    rounds = -(-x // (room * target.cores))
    return "mn", min(tiles, rounds * target.cores)


def _slices(rows: int, k: int, target: CpuTarget) -> int:
    """Into how many equal parts k is cut so that a part of `rows` rows of x takes half of L2; 1 if none is equal."""
    least = -(-4 * rows * k // (target.l2 // 2))
    return next((slices for slices in range(least, 2 * least + 1) if k % (4 * slices) == 0), 1)


def _bias_first(activation: str) -> bool:
    """Whether sums start from the bias instead of getting it last.

    A large bias makes every product that is added to it round more, so it should come last. But where an activation
    follows that needs many registers, LLVM keeps sums that start from a constant in memory: 30% more time.
    """
    return activation.partition("(")[0] not in ("none", "relu", "clamp", "leaky_relu")
