"""Where the command line prints, and what several commands print alike."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..report.quantities import bytes_text

if TYPE_CHECKING:
    from ..program import Program
    from ..report.pruned import LayerZeros

_MOST_LISTED = 20
_PLAIN_WIDTH = 1000  # of output that goes to a file or another program: wide enough not to cut lines


def console() -> Console:
    """Standard output, text as it is; as wide as the terminal, or wide when it is none."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    return _PlainConsole(width=_PLAIN_WIDTH, highlight=False, markup=False)


def print_sizes(out: Console, original: Program, program: Program, output: Path) -> None:
    """The file that was written, and the constants before and after."""
    out.print(str(output), style="bold", end="  ")
    out.print(bytes_text(output.stat().st_size), end=", ")
    before, after = (sum(c.nbytes for c in p.constants.values()) for p in (original, program))
    out.print(f"constants {bytes_text(before)} -> {bytes_text(after)}")


def zeros_table(layers: Sequence[LayerZeros]) -> Table:
    """Zeros in weights, one line a layer."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("layer", "weight"):
        table.add_column(column, no_wrap=True)
    for column in ("left", "of", "zeros"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in layers:
        shape = " x ".join(map(str, each.shape))
        table.add_row(each.name, shape, str(each.left), str(each.weights), f"{each.share:.1%}")
    return table


def print_first(out: Console, lines: Sequence[str], style: str | None = None) -> None:
    """The first of the lines, and how many more there are."""
    for line in lines[:_MOST_LISTED]:
        out.print(f"  {line}", style=style)
    if len(lines) > _MOST_LISTED:
        out.print(f"  ... and {len(lines) - _MOST_LISTED} more", style=style)


class _PlainConsole(Console):
    """Prints tables without the spaces that fill them up to the console's width."""

    def print(self, *objects: Any, **options: Any) -> None:
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write(re.sub(r" +(?=\n)", "", captured.get()))
