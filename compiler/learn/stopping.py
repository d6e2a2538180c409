"""Which evaluation was best, and whether there is hope for a better one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..search.quality import Quality


@dataclass
class Progression:
    """The evaluations of a training so far.

    Training has no more hope after `patience` evaluations (None: never) without one that is better than the best
    before by more than chance: outside the interval of the difference where `evaluate` returns Scores, and by more than
    `noise` in any case. Prechelt, "Early Stopping - But When?", 1998.
    """

    patience: int | None
    noise: float
    reference: Quality | None = None
    """What the next ones must be better than."""
    highest: float | None = None
    waited: int = 0
    """Evaluations since `reference`."""

    def add(self, quality: Quality) -> bool:
        """Take in an evaluation; whether none was higher."""
        if self.reference is None or self._is_better(quality, self.reference):
            self.reference, self.waited = quality, 0
        else:
            self.waited += 1
        is_highest = self.highest is None or quality.value >= self.highest
        if is_highest:
            self.highest = quality.value
        return is_highest

    @property
    def has_hope(self) -> bool:
        """Whether to go on."""
        return self.patience is None or self.waited < self.patience

    def _is_better(self, found: Quality, reference: Quality) -> bool:
        return found.value - reference.value > self.noise and found.is_better_than(reference)

    def state(self) -> dict[str, Any]:
        """Plain data and tensors for a checkpoint."""
        reference = self.reference
        if reference is None:
            return {}
        resampled = None if reference.resampled is None else torch.from_numpy(reference.resampled)
        ends = [reference.value, reference.low, reference.high]
        kept = {"reference": ends, "items": reference.items, "resampled": resampled}
        return {**kept, "highest": self.highest, "waited": self.waited}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if state:
            resampled = state["resampled"]
            kept = None if resampled is None else resampled.numpy()
            value, low, high = state["reference"]
            self.reference = Quality(value, low, high, state["items"], kept)
            self.highest, self.waited = state["highest"], state["waited"]
