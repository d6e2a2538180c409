"""What can watch a PassManager: print what changed, dump every stage, write a reproducer when a pass fails."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .errors import Unsupported

if TYPE_CHECKING:
    from .program import PassRecord, Program
    from .progress import Progress
    from .rewriter import Pass


class Instrument:
    """Base of instruments; override what you need."""

    def should_run(self, p: Pass, program: Program) -> bool:
        """Return False to leave the pass out."""
        return True

    def before(self, p: Pass, program: Program) -> None:
        """Called before a pass."""

    def after(self, p: Pass, program: Program, text_before: str, record: PassRecord) -> None:
        """Called after a pass that succeeded."""

    def failed(self, p: Pass, text_before: str, error: Exception) -> None:
        """Called when a pass or its verification raised."""


class ReportProgress(Instrument):
    """Tell a Progress which pass runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def before(self, p: Pass, program: Program) -> None:
        self._progress(f"pass {p.name}")


class PrintChanged(Instrument):
    """Print a unified diff of the Program's text for every pass that changed it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def after(self, p: Pass, program: Program, text_before: str, record: PassRecord) -> None:
        if record.changed:
            diff = difflib.unified_diff(
                text_before.splitlines(), record.text.splitlines(), "before", f"after {record.name}", lineterm="", n=1
            )
            print("\n".join(diff), file=self._stream or sys.stdout)


class DumpDirectory(Instrument):
    """Write to a folder `00-start.txt`, the Program's text, `NN-pass.txt` for each change of it, and `timing.json`."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._number = 0
        self._timing: list[dict[str, object]] = []

    def before(self, p: Pass, program: Program) -> None:
        if self._number == 0:
            (self._folder / "00-start.txt").write_text(program.text())
        self._number += 1

    def after(self, p: Pass, program: Program, text_before: str, record: PassRecord) -> None:
        self._timing.append({"pass": record.name, "seconds": record.seconds, "rewrites": len(record.rewrites)})
        (self._folder / "timing.json").write_text(json.dumps(self._timing, indent=1))
        if record.changed:
            (self._folder / f"{self._number:02d}-{p.name}.txt").write_text(record.text)


class Reproducer(Instrument):
    """When a pass fails, save the Program before it and the pass to one file that `fxpress.testing.reproduce` runs."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._last: Program | None = None

    def before(self, p: Pass, program: Program) -> None:
        self._last = program.clone()

    def failed(self, p: Pass, text_before: str, error: Exception) -> None:
        from .serialize import save_program

        assert self._last is not None
        try:
            save_program(self._last, self._path, pipeline=str(p))
        except Unsupported as reason:  # the pass's error must not be lost
            error.add_note(f"no reproducer written: {reason}")
            return
        error.add_note(f"reproducer written: fxpress.testing.reproduce({str(self._path)!r})")
