"""Rows of a window that lie in the padding need not be multiplied: what they would add is known, and joins the bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .layers import Convolution, Integers, Window


@dataclass(frozen=True)
class TapRows:
    """Rows `first` to `last` - 1 of a window, of which result rows `low` to `high` - 1 of a tile read data."""

    first: int
    last: int
    low: int
    high: int


@dataclass(frozen=True)
class RowGroup:
    """Result rows `low` to `high` - 1 of a tile, whose windows have the same rows `skipped` in the padding."""

    low: int
    high: int
    skipped: tuple[int, ...]


def tap_rows(window: Window, row: int, rows: int, height: int) -> list[TapRows]:
    """Runs of window rows that contribute to the same result rows, for results from `row` on of a source `height` high.

    The first run contributes to all rows; a list of one that has all of the window when there is no such run.
    """
    found: list[TapRows] = []
    for tap in range(window.kernel[0]):
        position = tap * window.dilation[0] - window.padding[0]  # source row of result row 0
        inside = [r for r in range(rows) if 0 <= (row + r) * window.stride[0] + position < height]
        low, high = (inside[0], inside[-1] + 1) if inside else (0, 0)
        if found and (found[-1].low, found[-1].high) == (low, high):
            found[-1] = TapRows(found[-1].first, tap + 1, low, high)
        else:
            found.append(TapRows(tap, tap + 1, low, high))
    whole = [run for run in found if (run.low, run.high) == (0, rows)]
    if not whole:
        return [TapRows(0, window.kernel[0], 0, rows)]
    return [whole[0], *(run for run in found if run is not whole[0] and run.low < run.high)]


def row_groups(runs: list[TapRows], rows: int, taps: int) -> list[RowGroup]:
    """The result rows of a tile in groups that need the same bias."""
    found: list[RowGroup] = []
    for row in range(rows):
        read = {tap for run in runs if run.low <= row < run.high for tap in range(run.first, run.last)}
        skipped = tuple(tap for tap in range(taps) if tap not in read)
        if found and found[-1].skipped == skipped:
            found[-1] = RowGroup(found[-1].low, row + 1, skipped)
        else:
            found.append(RowGroup(row, row + 1, skipped))
    return found


def skipped_sums(layer: Convolution, skipped: tuple[int, ...]) -> Integers:
    """What the skipped window rows, all padding, would have added to the sums of each output channel."""
    weight = layer.weight[:, :, list(skipped)].astype(np.int64)
    sums: Integers = weight.sum((1, 2, 3)) * layer.window.fill
    return sums
