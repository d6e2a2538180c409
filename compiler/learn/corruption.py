"""Inputs that are a little wrong: noise on numbers, tokens that are missing."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..search.ranges import Range, not_searched, search
from .batches import Batch


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Normal noise on all float inputs, with `deviation` times the standard deviation of the input's batch.

    Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", 1995.
    """

    deviation: float = field(default=0.1, metadata=search(Range(0.01, 0.5, log=True)))

    def __post_init__(self) -> None:
        if not self.deviation >= 0:
            raise InvalidInput(f"deviation of Noise must be at least 0, not {self.deviation!r}")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with noise."""
        floats = {name: x for name, x in batch.tensors.items() if x.is_floating_point()}
        if not floats:
            raise InvalidInput("inputs must hold floats for Noise; for tokens use TokenDropout")
        return batch.with_tensors({name: self._noisy(x) for name, x in floats.items()})

    def _noisy(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * (self.deviation * x.std(correction=0))


@dataclass(frozen=True, kw_only=True)
class TokenDropout:
    """Each token becomes `token` (that of a mask, or of the unknown) with probability `rate`, unless it is in `keep`.

    `keep` are tokens that mean something by themselves, such as padding, begin and end. `input` is the position or name
    of the tokens among the inputs; without it the first integer input. Iyyer et al., "Deep Unordered Composition
    Rivals Syntactic Methods", 2015 (word dropout).
    """

    token: int = field(metadata=not_searched("the tokens' maker knows it"))
    rate: float = field(default=0.1, metadata=search(Range(0.0, 0.4)))
    keep: tuple[int, ...] = ()
    input: int | str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InvalidInput(f"rate of TokenDropout must be from 0 to 1, not {self.rate!r}")
        object.__setattr__(self, "keep", tuple(self.keep))

    def __call__(self, batch: Batch) -> Batch:
        """The batch with tokens missing."""
        integers = {name: x for name, x in batch.tensors.items() if x.dtype in (torch.int64, torch.int32)}
        name = next(iter(integers), None) if self.input is None else self.input
        if name is None or name not in integers:
            wanted = "an input of tokens" if self.input is None else f"integers at {self.input!r}"
            raise InvalidInput(f"inputs must hold {wanted} for TokenDropout, not only {list(batch.tensors)}")
        tokens = integers[name]
        kept = torch.isin(tokens, torch.tensor(self.keep, dtype=tokens.dtype, device=tokens.device))
        gone = (torch.rand(tokens.shape, device=tokens.device) < self.rate) & ~kept
        return batch.with_tensors({name: torch.where(gone, self.token, tokens)})
