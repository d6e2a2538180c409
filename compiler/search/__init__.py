"""Searching for the best model of each footprint: what is measured, what is tried, what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .replaying import replay

__all__ = ["replay"]


def __getattr__(name: str) -> Any:
    if name != "replay":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .replaying import replay  # whoever declares the range of an option needs no trainer and no passes

    return replay
