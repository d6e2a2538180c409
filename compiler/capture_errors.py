"""The doctor: says why a model could not be traced, where, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def explain(model: Any, signature: Any, inputs: tuple[Any, ...]) -> Iterator[None]:
    """Turn what torch.export raises inside the block into a CaptureError."""
    yield
