"""The strategies that come with fxpress, and the phases that they are made of.

Menghani, "Efficient Deep Learning: A Survey on Making Deep Learning Models Smaller, Faster, and Better",
arXiv:2106.08962, section 4.2: shrink and improve, for those who count bytes; grow, improve and shrink, for those who
count mistakes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import InvalidInput
from ..program import Program
from ..pruning import prune
from ..quantizing import quantize
from .phases import Candidate, Options, Phase, Strategy, Task
from .ranges import Choice, Range

NONE = "none"


def _prune(program: Program, options: Options, task: Task) -> Program:
    from ..passes.pruning.config import PruneConfig

    recovery = "least-squares" if task.calibration and task.train is None else "none"
    config = PruneConfig(
        ratio=options["ratio"], importance=options["importance"], ranking=options["ranking"], recovery=recovery
    )
    return prune(program, config, calibration=task.calibration or None, target=task.target, progress=task.progress)


def _sparsify(program: Program, options: Options, task: Task) -> Program:
    from ..passes.pruning.config import PruneConfig

    pattern, _, percent = options["pattern"].partition(" ")
    config = PruneConfig(
        pattern=pattern, ratio=float(percent.rstrip("%")) / 100 if percent else None, reconstruct=bool(task.calibration)
    )
    return prune(program, config, calibration=task.calibration or None, target=task.target, progress=task.progress)


def _quantize(program: Program, options: Options, task: Task) -> Program:
    return quantize(
        program, options["config"], calibration=task.calibration or None, target=task.target, progress=task.progress
    )


PRUNE = Phase(
    "prune",
    _prune,
    {
        "ratio": Range(0.0, 0.9, step=0.05),
        "importance": Choice(("l2", "activation", "hessian")),
        "ranking": Choice(("local", "global")),
    },
    off={"ratio": 0.0},
)
"""Channels, heads and hidden units go; without training the layers that are left are fitted to the original's."""

SPARSIFY = Phase(
    "sparsify",
    _sparsify,
    {"pattern": Choice((NONE, "2:4", "blocks 75%", "blocks 90%"))},
    off={"pattern": NONE},
)
"""Weights become zero in patterns that kernels skip."""

QUANTIZE = Phase(
    "quantize",
    _quantize,
    {"config": Choice((NONE, "int8", "int8-accurate"))},
    off={"config": NONE},
)
"""8-bit integers."""

SHRINK_FIRST: tuple[Candidate, ...] = (
    {},
    {"quantize.config": "int8"},
    *({"prune.ratio": ratio, "quantize.config": "int8"} for ratio in (0.25, 0.5, 0.75)),
    {"prune.ratio": 0.5},
    {"sparsify.pattern": "blocks 75%"},
    {"sparsify.pattern": "2:4", "quantize.config": "int8"},
)
"""What is worth trying in any case: nothing, and a little of each."""

STRATEGIES: dict[str, Strategy] = {
    "shrink": Strategy("shrink", (PRUNE, SPARSIFY, QUANTIZE), SHRINK_FIRST),
}


def strategy_of(strategy: str | Strategy, **changes: Any) -> Strategy:
    """The Strategy that a name means. Raises InvalidInput for an unknown one."""
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise InvalidInput(f"strategy must be a Strategy or one of {sorted(STRATEGIES)}, not {strategy!r}")
        strategy = STRATEGIES[strategy]
    if not isinstance(strategy, Strategy):
        raise InvalidInput(f"strategy must be a Strategy or one of {sorted(STRATEGIES)}, not {strategy!r}")
    return dataclasses.replace(strategy, **changes)
