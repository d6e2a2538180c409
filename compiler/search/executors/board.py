"""What the trials of a search are doing, as one line."""

from __future__ import annotations

from ...progress import Progress
from ..trials import Trial


class Board:
    """Tells `progress` how many trials run and what each of them is doing."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stages: dict[str, str] = {}

    def show(self, trial: Trial, stage: str = "begins") -> None:
        """The trial is doing this now."""
        self._stages[str(trial)] = stage
        lines = [f"{name}: {stage}" for name, stage in self._stages.items()]
        self._progress(lines[0] if len(lines) == 1 else f"{len(lines)} trials run; {'; '.join(lines)}")

    def remove(self, trial: Trial) -> None:
        """The trial has ended."""
        del self._stages[str(trial)]
