"""Training on mixtures of two examples, with mixtures of their targets: mixup and CutMix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..errors import InvalidInput
from ..search.ranges import Range, search
from .batches import Batch


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """share * x + (1 - share) * another x of the batch, share ~ Beta(alpha, alpha); the loss likewise.

    All float inputs are mixed. Done to a batch with `probability`. Zhang et al., "mixup", arXiv:1710.09412.
    """

    alpha: float = field(default=0.2, metadata=search(Range(0.05, 1.0, log=True)))
    probability: float = field(default=1.0, metadata=search(Range(0.0, 1.0)))

    def __post_init__(self) -> None:
        _check(self, self.alpha, self.probability)

    def __call__(self, batch: Batch) -> Batch:
        """The batch, mixed."""
        floats = {name: x for name, x in batch.tensors.items() if x.is_floating_point()}
        if not floats:
            raise InvalidInput("inputs must hold floats for Mixup; tokens cannot be mixed, use TokenDropout")
        if float(torch.rand(())) >= self.probability:
            return batch
        share, order = _share(self.alpha), _order(floats.values())
        mixed = {name: torch.lerp(x[order], x, share) for name, x in floats.items()}
        return mixed_targets(batch.with_tensors(mixed), order, share)


@dataclass(frozen=True, kw_only=True)
class CutMix:
    """A rectangle from another image of the batch, whose share of the area is that of its target in the loss.

    Inputs [n, channels, rows, columns] are cut. The share that stays is drawn from Beta(alpha, alpha), before the
    rectangle is cut off at the borders. Done to a batch with `probability`. Yun et al., "CutMix", arXiv:1905.04899.
    """

    alpha: float = field(default=1.0, metadata=search(Range(0.1, 2.0, log=True)))
    probability: float = field(default=0.5, metadata=search(Range(0.0, 1.0)))

    def __post_init__(self) -> None:
        _check(self, self.alpha, self.probability)

    def __call__(self, batch: Batch) -> Batch:
        """The batch, with rectangles from others."""
        images = images_of(batch, "CutMix")
        if float(torch.rand(())) >= self.probability:
            return batch
        share, order = _share(self.alpha), _order(images.values())
        places = torch.rand(2).tolist()
        cut = {}
        for name, x in images.items():
            rows, columns = (_window(size, place, share) for size, place in zip(x.shape[2:], places, strict=True))
            cut[name] = x.clone()
            cut[name][:, :, rows, columns] = x[order][:, :, rows, columns]
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            left = 1 - area / (x.shape[2] * x.shape[3])
        return mixed_targets(batch.with_tensors(cut), order, left)


def mixed_targets(batch: Batch, order: Tensor, share: float) -> Batch:
    """The batch with `share` for its targets, and the rest for the targets in another order."""
    own = [(target, weight * share) for target, weight in batch.targets]
    others = [(_ordered(target, order), weight * (1 - share)) for target, weight in batch.targets]
    return Batch(batch.args, batch.kwargs, (*own, *others))


def images_of(batch: Batch, what: str) -> dict[int | str, Tensor]:
    """The inputs that are images. Raises InvalidInput where none is."""
    images = {name: x for name, x in batch.tensors.items() if x.dim() == 4 and x.is_floating_point()}
    if not images:
        raise InvalidInput(f"inputs must hold images, floats [n, channels, rows, columns], for {what}")
    return images


def _ordered(target: Any, order: Tensor) -> Any:
    return tree_map(lambda x: x[order] if isinstance(x, Tensor) else x, target)


def _share(alpha: float) -> float:
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _order(tensors: Any) -> Tensor:
    sizes = {x.shape[0] for x in tensors}
    if len(sizes) != 1:
        raise InvalidInput(f"inputs to be mixed must have one size of batch, not {sorted(sizes)}")
    return torch.randperm(sizes.pop())


def _window(size: int, place: float, share: float) -> slice:
    """Of a dim with `size` places: a window around `place`, a share of the dim, that holds sqrt(1 - share) of it."""
    center, half = int(place * size), round(size * (1 - share) ** 0.5 / 2)
    return slice(max(center - half, 0), min(center + half, size))


def _check(what: object, alpha: float, probability: float) -> None:
    name = type(what).__name__
    if not alpha > 0:
        raise InvalidInput(f"alpha of {name} must be positive, not {alpha!r}")
    if not 0 <= probability <= 1:
        raise InvalidInput(f"probability of {name} must be from 0 to 1, not {probability!r}")
