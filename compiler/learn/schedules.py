"""How large a step of the optimiser is."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
"""From the share of the training that is done, [0, 1), to a share of the learning rate."""


def cosine(done: float) -> float:
    """From 1 to 0 along half a cosine. Loshchilov & Hutter, "SGDR", arXiv:1608.03983, without restarts."""
    return (1 + math.cos(math.pi * min(done, 1.0))) / 2


def constant(done: float) -> float:
    """1."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "constant": constant}


def share_of_rate(schedule: str, step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate in `step`, from 0, of `steps`.

    Grows linearly in the share `warmup` of all steps (Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677),
    then follows the schedule.
    """
    warming = round(warmup * steps)
    if step < warming:
        return (step + 1) / (warming + 1)
    return SCHEDULES[schedule]((step - warming) / max(steps - warming, 1))
