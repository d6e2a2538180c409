"""Named pipelines: functions of options returning pipeline text or passes."""

from __future__ import annotations


def default(level: int = 2) -> str:
    """What `fxpress.compile` runs. Level 0 changes nothing, 1 canonicalizes, 2 also fuses and assigns layouts."""
    return "drop-identity" if level else ""
