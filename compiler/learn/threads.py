"""How many threads PyTorch uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..errors import InvalidInput


@contextlib.contextmanager
def pytorch_threads(count: int | None) -> Iterator[None]:
    """Inside, PyTorch uses so many threads; None leaves them as they are."""
    if count is None:
        yield
        return
    if type(count) is not int or count < 1:
        raise InvalidInput(f"threads must be an integer of at least 1 or None, not {count!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
