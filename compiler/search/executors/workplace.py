"""What a worker does with the trials that it is sent."""

from __future__ import annotations

import time
from functools import partial

import torch

from ...machine import SharedMachine, share
from ...progress import Progress
from ..trials import Trials
from .wire import outcome_of, unpack

SECONDS_BETWEEN_STAGES = 0.1
"""More often than that nobody looks at stages of one kind, "train: step 1 of 9"."""


class Workplace:
    """A process that runs `trials` on a machine that it shares with others, with so many threads of PyTorch."""

    def __init__(self, trials: bytes, machine: SharedMachine, threads: int) -> None:
        torch.set_num_threads(threads)
        self.trials: Trials = unpack(trials)
        self._machine = machine
        self._kind, self._told = "", 0.0

    def run(self, request: bytes, progress: Progress) -> bytes:
        """The packed Point of a packed Trial, or the Failure that it was: an error is raised where the search is."""
        share(self._machine)
        with self._machine.working():
            return outcome_of(lambda: self.trials.run(unpack(request), partial(self._tell, progress)))

    def _tell(self, progress: Progress, stage: str) -> None:
        self._machine.give_way()
        kind, now = stage.partition(":")[0], time.monotonic()
        if kind != self._kind or now - self._told > SECONDS_BETWEEN_STAGES:
            self._kind, self._told = kind, now
            progress(stage)
