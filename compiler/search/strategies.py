"""The strategies that come with fxpress, and the phases that they are made of.

Menghani, "Efficient Deep Learning: A Survey on Making Deep Learning Models Smaller, Faster, and Better",
arXiv:2106.08962, section 4.2: shrink and improve, for those who count bytes; grow, improve and shrink, for those who
count mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import InvalidInput
from ..learn.config import TrainConfig
from ..learn.distillation import LogitDistillation
from ..learn.functions import train_with
from ..learn.training import train
from ..pass_manager import PassManager
from ..program import PassRecord, Program
from ..pruning import prune
from ..quantizing import quantize
from ..report.outcomes import TRAINING
from .phases import Candidate, Options, Phase, Strategy, Task
from .ranges import Choice, Range

NONE = "none"
INT8 = "int8"
SYMMETRY_BREAKING = 0.05
"""The noise in how copies share weights: without it they would learn the same."""


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
    config = None if options["config"] == INT8 else options["config"]
    return quantize(program, config, calibration=task.calibration or None, target=task.target, progress=task.progress)


def _suited_integers(phase: Phase, task: Task) -> Phase | str:
    """The phase, which cannot be left out where the target computes integers only."""
    from ..passes.quantization.integer_targets import INTEGERS

    integers = INTEGERS.get(task.target.kind)
    if integers is None:
        return f"{task.target.kind} targets do not compute with integers"
    return replace(phase, space={"config": Choice((INT8,))}, off={}) if integers.static else phase


def _train(program: Program, options: Options, task: Task) -> Program:
    """The Program, trained on the task's batches, from the task's teacher too if the options say so."""
    if callable(task.train):
        return _recorded(train_with(program, task.train, seed=task.seed), "train: by the function given", ())
    assert task.train is not None
    teacher = (task.teacher or task.original) if options.get("distill") else None
    config = replace(
        task.learning or TrainConfig(),
        epochs=options["epochs"],
        learning_rate=options["learning_rate"],
        distill=(LogitDistillation(temperature=options["temperature"]),) if teacher is not None else (),
        seed=task.seed,
    )
    trained = train(program, task.train, config, loss=task.loss, teacher=teacher, progress=task.progress)
    curve = tuple({"epoch": p.epoch, "loss": p.loss, "quality": p.quality} for p in trained.curve)
    return _recorded(trained.model, f"train: {trained.step} steps", curve)


def _recorded(program: Program, what: str, curve: tuple[Mapping[str, Any], ...]) -> Program:
    """The Program with its training in its history: training is no pass."""
    program.history.append(PassRecord(TRAINING, (what,), (), 0.0, program.text(), curve))
    return program


def _grow(program: Program, options: Options, task: Task) -> Program:
    from ..passes.growth.widen import Widen

    widen = Widen(ratio=options["width"], noise=SYMMETRY_BREAKING, seed=task.seed)
    return PassManager([widen], target=task.target).run(program)


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

GROW = Phase("grow", _grow, {"width": Choice((1.0, 1.5, 2.0))}, off={"width": 1.0})
"""More channels and hidden units, which compute the same to begin with."""

LEARN = Phase(
    "learn",
    _train,
    {"epochs": Range(0, 40), "learning_rate": Range(3e-4, 1e-2, log=True)},
    off={"epochs": 0},
    keeps_structure=True,
    teaches=True,
    needs="train",
)
"""Training of the large model, of which smaller ones learn."""

_TAUGHT: Mapping[str, Range | Choice] = {"distill": Choice((True, False)), "temperature": Range(1.0, 8.0, log=True)}

IMPROVE = Phase(
    "improve",
    _train,
    {"epochs": Range(0, 40), "learning_rate": Range(3e-4, 1e-2, log=True), **_TAUGHT},
    off={"epochs": 0},
    keeps_structure=True,
    needs="train",
)
"""Training of what is left, from the labels and the larger model."""

TUNE = Phase(
    "tune",
    _train,
    {"epochs": Range(0, 10), "learning_rate": Range(1e-5, 1e-3, log=True), **_TAUGHT},
    off={"epochs": 0},
    keeps_structure=True,
    needs="train",
)
"""Training with the integers."""

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
    {"config": Choice((NONE, INT8, "int8-accurate"))},
    off={"config": NONE},
    suit=_suited_integers,
)
"""8-bit integers; "int8" is what suits the target."""

SHRINK_FIRST: tuple[Candidate, ...] = (
    {},
    {"quantize.config": "int8"},
    *({"prune.ratio": ratio, "quantize.config": "int8"} for ratio in (0.25, 0.5, 0.75)),
    {"prune.ratio": 0.5},
    {"sparsify.pattern": "blocks 75%"},
    {"sparsify.pattern": "2:4", "quantize.config": "int8"},
)
"""What is worth trying in any case: nothing, and a little of each."""

IMPROVED: Candidate = {"improve.epochs": 10, "improve.learning_rate": 2e-3, "improve.temperature": 4.0}

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "shrink-and-improve",
            (PRUNE, SPARSIFY, IMPROVE, QUANTIZE, TUNE),
            tuple({**candidate, **IMPROVED} if candidate else candidate for candidate in SHRINK_FIRST),
        ),
        Strategy(
            "grow-improve-and-shrink",
            (GROW, LEARN, PRUNE, SPARSIFY, IMPROVE, QUANTIZE, TUNE),
            tuple(
                {"grow.width": 2.0, "learn.epochs": 20, "learn.learning_rate": 2e-3, **IMPROVED, **candidate}
                for candidate in SHRINK_FIRST
            ),
        ),
    )
}
"""By name. Phases that need data that is not there are left out."""


def strategy_of(strategy: str | Strategy, **changes: Any) -> Strategy:
    """The Strategy that a name means. Raises InvalidInput for an unknown one."""
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise InvalidInput(f"strategy must be a Strategy or one of {sorted(STRATEGIES)}, not {strategy!r}")
        strategy = STRATEGIES[strategy]
    if not isinstance(strategy, Strategy):
        raise InvalidInput(f"strategy must be a Strategy or one of {sorted(STRATEGIES)}, not {strategy!r}")
    return replace(strategy, **changes)
