"""`fxpress compile`: draws the progress, writes the artifact, says what came out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..api import compile as compile_model
from ..progress import TerminalProgress
from ..report.quantities import bytes_text
from .formatting import console
from .models import LoadedModel


def compile_to_file(loaded: LoadedModel, output: Path, **options: Any) -> None:
    """Compile and save. `options` are those of `fxpress.compile`. Raises what it raises."""
    start = time.perf_counter()
    with TerminalProgress() as progress:
        artifact = compile_model(loaded.model, loaded.args, loaded.kwargs, progress=progress, **options)
    artifact.save(output)
    manifest = artifact.manifest
    out = console()
    out.print(str(output), style="bold", end="  ")
    out.print(
        f"{bytes_text(output.stat().st_size)}, {manifest['calls']} kernel calls, "
        f"constants {bytes_text(manifest['memory']['constants'])}, self-test passed"
    )
    for title, specs in (("input", artifact.inputs), ("output", artifact.outputs)):
        for spec in specs:
            out.print(f"  {title:6}  {spec}")
    for line in manifest.get("fallbacks", []):
        out.print(f"  fallback: {line}", style="yellow")
    out.print(f"  compiled in {time.perf_counter() - start:.1f} s", style="dim")
