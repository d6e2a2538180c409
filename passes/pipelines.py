"""Named pipelines: functions of options returning pipeline text or passes."""

from __future__ import annotations

NORMALIZE = (
    "normalize-conv",
    "normalize-linear",
    "unflatten-linear",
    "normalize-pool",
    "normalize-resize",
    "normalize-group-norm",
)
"""From ATen's spellings to the ops that kernels take."""


def default(level: int = 2) -> str:
    """What `fxpress.compile` runs. Level 0 changes nothing, 1 canonicalizes, 2 also fuses and assigns layouts."""
    if level == 0:
        return ""
    return ",".join(("drop-identity", *NORMALIZE))
