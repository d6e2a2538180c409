"""What a training gives: the model, and how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic

from .config import TrainConfig
from .programs import M


@dataclass(frozen=True)
class CurvePoint:
    """One epoch, or what there was of it: from 1 on, with `step`s from the beginning of the training.

    `loss` is the mean of the epoch's batches, `parts` what it is the sum of, `learning_rate` the last one. `quality`,
    and the ends of its interval, is what `evaluate` said after it, None without one. `seconds` are from the beginning,
    without the time between an interruption and the last checkpoint before it.
    """

    epoch: int
    step: int
    loss: float
    parts: Mapping[str, float]
    learning_rate: float
    quality: float | None
    low: float | None
    high: float | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Trained(Generic[M]):
    """A trained model, of the kind that was given, and how it came about.

    `step` is after which step the model had these weights, `quality` what `evaluate` said of them. `stopped` is
    "finished", or "patience" where evaluations got no better.
    """

    model: M
    config: TrainConfig
    curve: tuple[CurvePoint, ...]
    step: int
    quality: float | None
    stopped: str

    def to_json(self) -> dict[str, Any]:
        """Everything but the model as plain data, for a Recipe and for reports."""
        return {
            "config": self.config.to_json(),
            "curve": [asdict(point) for point in self.curve],
            "step": self.step,
            "quality": self.quality,
            "stopped": self.stopped,
        }
