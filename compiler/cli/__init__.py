"""The command line: `fxpress compile`, `quantize`, `run`, `bench`, `explain`, `report`, `inspect`, `passes`, `systolic`."""

from __future__ import annotations


def main() -> None:
    """Run the command line. Imported when called: `fxpress.cli` alone loads nothing."""
    from .commands import app

    app()
