"""Copies whose source and destination are contiguous along different dimensions: blocks transposed in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Access
from .loops import Axis

if TYPE_CHECKING:
    from .pointwise import Pointwise


def transposes(axes: Sequence[Axis], kernel: Pointwise) -> bool:
    """Whether a copy is better done in square blocks."""
    return False


def emit_transpose(axes: Sequence[Axis], x: Access, y: Access, vector_bytes: int, threads: int) -> None:
    """Copy x to y in square blocks."""
