"""The machine as Verilog-2005, generated for an architecture."""

from __future__ import annotations

from pathlib import Path

from ..architecture import Architecture
from .top import TOP, top

__all__ = ["TOP", "generate", "write_verilog"]


def generate(architecture: Architecture) -> dict[str, str]:
    """File name -> text of every module, one a file, the lowest first and `systolic.v` last."""
    return top(architecture).design()


def write_verilog(architecture: Architecture, folder: Path) -> list[Path]:
    """Write the modules to `folder`, which is made if needed; return the files, the lowest first."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in generate(architecture).items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths
