"""Where the command line prints."""

from __future__ import annotations

import re
import sys
from typing import Any

from rich.console import Console

_PLAIN_WIDTH = 1000  # of output that goes to a file or another program: wide enough not to cut lines


def console() -> Console:
    """Standard output, text as it is; as wide as the terminal, or wide when it is none."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    return _PlainConsole(width=_PLAIN_WIDTH, highlight=False, markup=False)


class _PlainConsole(Console):
    """Prints tables without the spaces that fill them up to the console's width."""

    def print(self, *objects: Any, **options: Any) -> None:
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write(re.sub(r" +(?=\n)", "", captured.get()))
