"""An artifact that takes batches of any size, though it was compiled for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InvalidInput
from ..runtime import Artifact
from ..runtime.arrays import is_torch


class AnyBatch:
    """Calls an artifact as often as a batch needs; the last part is filled up with its last item, and cut again.

    The first dim of every input and output must be the batch, in which items do not depend on each other.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        sizes = {spec.shape[0] for spec in artifact.inputs if spec.shape}
        self._size = sizes.pop() if len(sizes) == 1 else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the artifact returns for its own size of batch, and for any other."""
        values = [*args, *kwargs.values()]
        counts = {len(value) for value in values if getattr(value, "ndim", 0)}
        if self._size is None or counts == {self._size} or len(counts) != 1:
            return self._artifact(*args, **kwargs)
        (count,) = counts
        if count == 0:
            raise InvalidInput("batch must hold at least one item, not none")
        parts = []
        for begin in range(0, count, self._size):
            chosen = np.minimum(np.arange(begin, begin + self._size), count - 1)
            given = [_items(value, chosen) for value in values]
            parts.append(self._artifact(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True))))
        return _joined(parts, count)


def _items(value: Any, chosen: np.ndarray[Any, Any]) -> Any:
    return value[chosen.tolist()] if getattr(value, "ndim", 0) else value


def _joined(parts: Sequence[Any], count: int) -> Any:
    """The parts' outputs as those of one batch of `count` items."""
    first = parts[0]
    if isinstance(first, dict):
        return type(first)({key: _joined([part[key] for part in parts], count) for key in first})
    if isinstance(first, tuple | list):
        joined = [_joined(list(items), count) for items in zip(*parts, strict=True)]
        return type(first)(joined)
    if is_torch(first):
        import torch

        return torch.cat(list(parts))[:count]
    return np.concatenate(parts)[:count]
