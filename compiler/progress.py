"""Shows what a compilation is doing, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins: "capture", "pass fuse-epilogue", "code generation"..."""


class TerminalProgress:
    """A Progress that draws the current stage and the time on stderr while it is used as a context manager.

    Draws nothing when stderr is no terminal; leaves nothing behind.
    """

    _display: Any = None

    def __enter__(self) -> TerminalProgress:
        if sys.stderr is None or not sys.stderr.isatty():
            return self
        from rich.console import Console
        from rich.progress import Progress as Display
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self._display = Display(
            *(SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._display.add_task("", total=None)
        self._display.start()
        return self

    def __call__(self, stage: str) -> None:
        if self._display is not None:
            self._display.update(self._task, description=stage)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
