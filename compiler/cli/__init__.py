"""The command line: `fxpress compile`, `quantize`, `run`, `bench`, `explain`, `report`, `systolic` and more."""

from __future__ import annotations


def main() -> None:
    """Run the command line. Imported when called: `fxpress.cli` alone loads nothing."""
    from .commands import app

    app()
