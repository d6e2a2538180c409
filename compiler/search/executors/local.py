"""`executor="local"`: one trial at a time, in this process."""

from __future__ import annotations

from functools import partial

import torch

from ...progress import Progress
from ..frontier import Point
from ..trials import Trial, Trials
from .board import Board
from .executor import Executor


class LocalExecutor(Executor):
    """Runs trials in this process, one after the other. Footprints are measured while it waits for them."""

    def begin(self, trials: Trials, progress: Progress) -> None:
        self._trials, self._progress = trials, progress
        self.threads = torch.get_num_threads()

    def submit(self, trial: Trial) -> None:
        self._trial = trial

    def finished(self) -> Point:
        board = Board(self._progress)
        board.show(self._trial)
        return self._trials.run(self._trial, partial(board.show, self._trial))

    def end(self) -> None:
        del self._trials
