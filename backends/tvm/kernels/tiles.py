"""The analytical model that picks register tiles, loop orders and cache blocks of convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from ....target import Target
from .conv_shape import ConvShape, bounded_lanes


@dataclass(frozen=True)
class ConvTile:
    """How a direct convolution is cut up.

    A register tile has `lines` x `columns` pixels by `vectors` vectors of `lanes` output channels. `unroll` steps of the
    reduction are written out. A task is one panel (`vectors` vectors of channels) for `block` register tiles;
    `order` says which of panels and blocks varies slower over the tasks: "channels" or "pixels".
    """

    lanes: int
    vectors: int
    columns: int
    lines: int = 1
    unroll: int = 4
    order: str = "pixels"
    block: int = 1
    parallel: bool = True

    def tiles(self, shape: ConvShape) -> int:
        """Register tiles of pixels in one image."""
        return -(-shape.height // self.lines) * -(-shape.width // self.columns)

    def blocks(self, shape: ConvShape) -> int:
        """Blocks of pixels in one image."""
        return -(-self.tiles(shape) // self.block)

    def panels(self, shape: ConvShape) -> int:
        """Panels of output channels in one group."""
        return -(-(shape.oc // shape.groups) // (self.vectors * self.lanes))

    def last_panel(self, shape: ConvShape) -> tuple[int, int]:
        """Vectors of the last panel, and the channels in the last of them."""
        channels = shape.oc // shape.groups - (self.panels(shape) - 1) * self.vectors * self.lanes
        vectors = -(-channels // self.lanes)
        return vectors, channels - (vectors - 1) * self.lanes

    def text(self) -> str:
        """The tile in a few words, for reports."""
        pixels = f"{self.lines}x{self.columns}" if self.lines > 1 else f"{self.columns}"
        return f"tile={pixels}x{self.vectors}x{self.lanes} order={self.order} block={self.block}"


def choose_conv_tile(shape: ConvShape, target: Target) -> ConvTile:
    """The tile that the model predicts to be fastest for `shape` on `target`."""
    lanes = bounded_lanes(shape.oc // shape.groups, target.vector.lanes)
    columns = min(shape.width, 14 if target.vector.registers >= 32 else 6)
    return ConvTile(lanes, 2, columns, block=max(1, -(-shape.height * -(-shape.width // columns) // 8)))


@dataclass(frozen=True)
class DepthwiseTile:
    """How a depthwise convolution is cut up.

    A register tile has `columns` pixels of one row by `lanes` channels. A task is `rows` rows of pixels by `vectors`
    vectors of channels, the channels varying fastest inside it.
    """

    lanes: int
    columns: int
    rows: int
    vectors: int
    parallel: bool = True

    def text(self) -> str:
        """The tile in a few words, for reports."""
        return f"tile={self.columns}x{self.lanes} rows={self.rows} vectors={self.vectors}"


def choose_depthwise_tile(shape: ConvShape, target: Target) -> DepthwiseTile:
    """The tile that suits `shape` on `target`."""
    lanes = bounded_lanes(shape.oc, target.vector.lanes)
    columns = min(shape.width, 14 if target.vector.registers >= 32 else 7)
    return DepthwiseTile(lanes, columns, rows=max(1, shape.height // 8), vectors=-(-shape.oc // lanes))
