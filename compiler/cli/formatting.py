"""How the command line prints numbers and tables."""

from __future__ import annotations

import sys

from rich.console import Console

_PLAIN_WIDTH = 240  # of output that goes to a file or another program: wide enough not to cut lines


def console() -> Console:
    """Standard output, text as it is; as wide as the terminal, or wide when it is none."""
    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False, markup=False)


def bytes_text(count: float) -> str:
    """A size in bytes: `512 B`, `1.5 KiB`, `2.0 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def time_text(seconds: float) -> str:
    """A duration: `0.53 us`, `1.20 ms`, `3.00 s`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
