"""Errors that fxpress raises on purpose end a command with one clean block of text and exit code 1."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import CompilerError, InternalError


class CleanFailures(TyperGroup):
    """A group of commands that prints a CompilerError's message and notes; with `--debug` it lets the error through."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CompilerError as error:
            if ctx.params["debug"]:
                raise
            _print_failure(error)
            raise typer.Exit(1) from error


def _print_failure(error: CompilerError) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print("\n".join([str(error), *getattr(error, "__notes__", [])]), markup=False)
    if isinstance(error, InternalError):
        console.print("`fxpress --debug ...` shows where this happened.", style="dim")
