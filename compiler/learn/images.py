"""Images a little to the side, and mirrored: He et al., "Deep Residual Learning", arXiv:1512.03385, section 4.2."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidInput
from ..search.ranges import Range, search
from .batches import Batch
from .mixing import images_of


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """A window of each image's size, at a random place of the image with `padding` zeros on every side."""

    padding: int = field(default=4, metadata=search(Range(0, 8)))

    def __post_init__(self) -> None:
        if not (isinstance(self.padding, int) and self.padding >= 0):
            raise InvalidInput(f"padding of RandomCrop must be an integer of at least 0, not {self.padding!r}")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with every image moved on its own."""
        return batch.with_tensors({name: self._crop(x) for name, x in images_of(batch, "RandomCrop").items()})

    def _crop(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        top, left = torch.randint(2 * self.padding + 1, (2, n))
        padded = F.pad(x, [self.padding] * 4)
        rows = (top[:, None] + torch.arange(height))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width))[:, None, None, :]
        return padded[torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]


@dataclass(frozen=True, kw_only=True)
class RandomFlip:
    """Left and right exchanged, in each image with `probability`. Not for what has a direction, such as digits."""

    probability: float = field(default=0.5, metadata=search(Range(0.0, 0.5)))

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise InvalidInput(f"probability of RandomFlip must be from 0 to 1, not {self.probability!r}")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with some images mirrored."""
        return batch.with_tensors({name: self._flip(x) for name, x in images_of(batch, "RandomFlip").items()})

    def _flip(self, x: Tensor) -> Tensor:
        flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < self.probability
        return torch.where(flipped, x.flip(-1), x)
