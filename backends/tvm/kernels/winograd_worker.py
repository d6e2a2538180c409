"""One worker of a Winograd convolution: the loops over blocks of tiles, chunks of channels, panels and points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script import builder as B

from .base import Access, Expr, Registers
from .conv_shape import LINE, Epilogue, Prefetch, zeros
from .gemm import part

if TYPE_CHECKING:
    from .winograd import WinogradConv

_UNROLL = 4


class WinogradWorker:
    """The part of `kernel` that makes the panels of `group` for the tiles of `share`, in scratch memory of its own."""

    def __init__(
        self,
        kernel: WinogradConv,
        x: Access,
        weight: Access,
        bias: Access,
        finish: Epilogue,
        memory: Access,
        group: Expr,
        share: Expr,
    ) -> None:
        self.kernel, self.form = kernel, kernel.form
        self.x, self.weight, self.bias, self.finish = x, weight, bias, finish
        self.first_panel, self.share = B.bind(group * kernel.panels), share
        self.panels: Expr = kernel.panels
        if kernel.groups * kernel.panels != kernel.form.panels:
            self.panels = B.bind(tirx.min(kernel.panels, kernel.form.panels - self.first_panel))
        points = self.form.points
        self.sources = memory
        self.products = memory.shifted(points * kernel.source_step)
        self.kept = self.products.shifted(points * kernel.product_panels * kernel.product_step)

    def run(self) -> None:
        """Everything, block after block."""
        kernel, form = self.kernel, self.form
        with B.serial(kernel.blocks) as number:
            block = B.bind((self.share * kernel.blocks + number) * kernel.tiles)
            with B.serial(form.chunks) as chunk:
                self.read(block, chunk)
                if kernel.weights == "run":
                    with B.If(number + chunk == 0), B.Then():
                        self.begin()
                with B.serial(self.panels) as panel:
                    self.multiply(chunk, panel)
                    _where(form.chunks == 1, chunk == form.chunks - 1, lambda: self.write(block, panel))

    def begin(self) -> None:
        """Transform the first block of weights; all where each is used for several blocks of tiles."""
        with B.serial(1 if self.kernel.blocks == 1 else self.panels * self.form.chunks) as index:
            self.transform(index, B.int32(0), self.form.depth)

    def each(self, block: Expr, body: Callable[[Expr, Expr], None]) -> None:
        """Emit `body(place in the block, number)` for the tiles of a block."""
        kernel = self.kernel
        with B.serial(kernel.tiles) as place:
            number = B.bind(block + place)
            always = kernel.grid.count == kernel.tiles * kernel.blocks * kernel.shares
            _where(always, number < kernel.grid.count, lambda: body(place, number))

    def read(self, block: Expr, chunk: Expr) -> None:
        """Transform a chunk of the input of a block."""
        kernel, depth = self.kernel, self.form.depth
        first = self.weight.shifted(self.form.plain_at(self.first_panel, chunk, B.int32(0))[0])
        lines = -(-9 * depth * self.form.width // (LINE * kernel.tiles))

        def read(channels: int) -> None:
            def one(place: Expr, number: Expr) -> None:
                if kernel.weights == "run":  # what `begin` reads is on its way meanwhile
                    with B.serial(lines) as i:
                        first.prefetch((place * lines + i) * LINE)
                to = self.sources.shifted(place * depth)
                kernel.grid.read(self.x, kernel.grid.tile(number), chunk * depth, channels, to, kernel.source_step)

            self.each(block, one)

        part(chunk, kernel.shape.ic, depth, read)

    def write(self, block: Expr, panel: Expr) -> None:
        """Transform the products of a panel back."""
        kernel, width = self.kernel, self.form.width
        products = self.products_of(panel)
        panel = B.bind(self.first_panel + panel)

        def write(channels: int) -> None:
            def one(place: Expr, number: Expr) -> None:
                tile, source = kernel.grid.tile(number), products.shifted(place * width)
                first = B.bind(panel * width)
                kernel.grid.write(source, kernel.product_step, tile, first, channels, self.bias, self.finish)

            self.each(block, one)

        part(panel, kernel.shape.oc, width, write)

    def products_of(self, panel: Expr) -> Access:
        """Where the products of the worker's panel of that number lie."""
        kernel = self.kernel
        if kernel.product_panels == 1:
            return self.products
        return self.products.shifted(panel * (self.form.points * kernel.product_step))

    def place(self, index: Expr) -> tuple[Expr, Expr]:
        """The chunk and the panel of block `index` of the worker's weights, in the order of their use."""
        return B.bind(index // self.panels), B.bind(self.first_panel + index % self.panels)

    def kept_block(self, index: Expr) -> Access:
        """Where block `index` of the worker's transformed weights lies."""
        if self.kernel.blocks == 1:
            index = index % self.kernel.weight_blocks
        return self.kept.shifted(index * self.form.block)

    def transform(self, index: Expr, first: Expr, count: int) -> None:
        """Transform `count` channels from `first` on of block `index` of the worker's weights, as far as they exist."""
        form = self.form
        chunk, panel = self.place(index)
        block = self.kept_block(index)
        with B.serial(count) as i:
            channel = B.bind(first + i)
            with B.If(tirx.all(chunk < form.chunks, channel < form.channels(chunk))), B.Then():
                form.transform_channel(self.weight, panel, chunk, block, channel)

    def multiply(self, chunk: Expr, panel: Expr) -> None:
        """Add sources[point] @ weights[point], for every point, to the products of a panel.

        With each register tile, some of the next weights are fetched, and transformed where that is done while running:
        in small portions this costs little, as it waits for caches, which the products hardly do.
        """
        kernel, form = self.kernel, self.form
        index = B.bind(chunk * self.panels + panel)
        if kernel.weights == "load":
            at = B.bind((chunk * form.panels + self.first_panel + panel) * form.block)
            portion = -(-form.step // (LINE * kernel.turns))
            self.products_of_points(chunk, panel, self.weight.shifted(at), portion, self.weight.shifted(at + form.step))
            return
        block = self.kept_block(index)
        if kernel.blocks > 1:
            self.products_of_points(chunk, panel, block)
            return
        share = -(-form.depth // (form.points * kernel.turns))
        portion = -(-share * form.width * 9 // LINE)
        following = B.bind(index + 1)
        next_chunk, next_panel = self.place(following)
        at, _ = form.plain_at(next_panel, next_chunk, B.int32(0))
        ahead = self.weight.shifted(at + kernel.turns * portion * LINE)
        self.products_of_points(
            chunk, panel, block, portion, ahead, lambda number: self.transform(following, number * share, share)
        )

    def products_of_points(
        self,
        chunk: Expr,
        panel: Expr,
        weights: Access,
        lines: int = 0,
        ahead: Access | None = None,
        work: Callable[[Expr], None] | None = None,
    ) -> None:
        """The products with a block of weights; each register tile asks for `lines` of `ahead` and does `work`."""
        kernel, form = self.kernel, self.form
        lanes, vectors, columns, tiles, turns = kernel.lanes, kernel.vectors, kernel.columns, kernel.tiles, kernel.turns
        products = self.products_of(panel)

        def product(point: Expr, first: Expr, pixels: int, depth: int) -> None:
            source = self.sources.shifted(point * kernel.source_step + first * form.depth)
            w = weights.shifted(point * form.step)
            number = B.bind(point * turns + first // columns)
            if work is not None:
                work(number)
            sums = Registers(pixels * vectors, lanes)
            for slot in range(pixels * vectors):
                sums[slot] = zeros(lanes)

            def step(k: Expr) -> None:
                row = [B.bind(w.load(k * form.width + v * lanes, lanes)) for v in range(vectors)]
                for p in range(pixels):
                    value = B.bind(source.load(p * form.depth + k, lanes, stride=0))
                    for v in range(vectors):
                        sums[p * vectors + v] = sums[p * vectors + v] + value * row[v]

            rounds = depth // _UNROLL
            if rounds > 1:
                with B.serial(rounds) as k:
                    if ahead is not None:
                        Prefetch(lines, lambda i: ahead.prefetch((number * lines + i) * LINE)).emit(k, rounds)
                    for u in range(_UNROLL):
                        step(k * _UNROLL + u)
            for u in range(rounds * _UNROLL if rounds > 1 else 0, depth):
                step(u)
            at = B.bind(point * kernel.product_step + first * form.width)
            earlier = B.bind(tirx.min(chunk, 1) * lanes)  # the first chunk's products have nothing to be added to
            for p in range(pixels):
                for v in range(vectors):
                    to = at + (p * form.width + v * lanes)
                    value = sums[p * vectors + v]
                    if form.chunks > 1:
                        value = value + products.load(to, lanes, count=earlier)
                    products.store(to, value, lanes)

        def all_points(depth: int) -> None:
            with B.serial(form.points) as point:
                if tiles >= columns:
                    with B.serial(tiles // columns) as i:
                        product(point, B.bind(i * columns), columns, depth)
                if tiles % columns:
                    product(point, B.int32(tiles // columns * columns), tiles % columns, depth)

        part(chunk, kernel.shape.ic, form.depth, all_points)


def _where(always: bool, condition: Expr, body: Callable[[], None]) -> None:
    """Emit `body` where the condition holds, without a branch where it always does."""
    if always:
        body()
        return
    with B.If(condition), B.Then():
        body()
