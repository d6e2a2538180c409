"""What decided how the artifact of a point was made, as plain data: enough to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..runtime import load
from .phases import Strategy, Task
from .store import Store, chain_key

if TYPE_CHECKING:
    from .frontier import Point

FORMAT = 1
Recipe = Mapping[str, Any]
"""What `recipe_of` says, plain data."""


def recipe_of(point: Point, strategy: Strategy, task: Task, store: Store, artifact: Path) -> dict[str, Any]:
    """All that decided how the artifact of a point was made, as plain data.

    The candidate and its strategy, hashes of model, data and functions, the seed, the threads that added numbers up,
    the measured seconds of kernels on which choices rest; and the hashes of what came of it, by member of the file.
    """
    digest = task.digest()
    with load(artifact) as made:
        members = made.manifest["members"]
    return {
        "format": FORMAT,
        "strategy": strategy.name,
        "candidate": dict(point.candidate),
        "steps": [[name, dict(options)] for name, options in point.steps],
        "target": str(task.target),
        "seed": task.seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "given": {name: each for name, each in task.digests.items() if name != "evaluate"},
        "measured": store.measured(chain_key(digest, point.steps[: n + 1]) for n in range(len(point.steps))),
        "members": {name: member["sha256"] for name, member in members.items()},
    }
