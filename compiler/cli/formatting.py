"""Where the command line prints."""

from __future__ import annotations

import sys

from rich.console import Console

_PLAIN_WIDTH = 1000  # of output that goes to a file or another program: wide enough not to cut lines


def console() -> Console:
    """Standard output, text as it is; as wide as the terminal, or wide when it is none."""
    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False, markup=False)
