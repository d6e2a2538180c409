"""The strategies that come with fxpress, and the phases that they are made of.

Menghani, "Efficient Deep Learning: A Survey on Making Deep Learning Models Smaller, Faster, and Better",
arXiv:2106.08962, section 4.2: shrink and improve, for those who count bytes; grow, improve and shrink, for those who
count mistakes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InvalidInput
from ..learn.config import TrainConfig
from ..passes.architecture.cheapen_activation import CheapenActivation
from ..passes.architecture.factor_linear import FactorLinear
from ..passes.growth.deepen import Deepen
from ..passes.growth.widen import Widen
from ..passes.pruning.config import PruneConfig
from ..passes.quantization.budget import Budget
from .changes import (
    BUDGET,
    INT8,
    KEEP,
    UNIFORM,
    cheapened,
    deepened,
    factored,
    pruned,
    quantized,
    sparsified,
    suited_activations,
    suited_blocks,
    suited_integers,
    widened,
)
from .phases import Candidate, Phase, Strategy
from .ranges import Choice, Range, Space, defaults_of, space_of
from .teaching import TAUGHT, TECHNIQUES, USUAL, WHEN, suited_training, trained

NONE = "none"


def _part(options: type, name: str, low: float | None = None, high: float | None = None) -> Range:
    """The part of a range that an option has elsewhere in which a search of few trials looks."""
    found = space_of(options)[name]
    assert isinstance(found, Range)
    return found.narrowed(low, high)


PRUNE = Phase(
    "prune",
    pruned,
    space_of(PruneConfig, "ratio", "importance", "ranking"),
    off={"ratio": 0.0},
    defaults=defaults_of(PruneConfig),
)
"""Channels, heads and hidden units go; without training the layers that are left are fitted to the original's."""

SHORTEN = Phase("shorten", pruned, space_of(PruneConfig, "blocks"), off={"blocks": 0.0}, suit=suited_blocks)
"""Residual branches go."""

FACTOR = Phase("factor", factored, space_of(FactorLinear, "ratio"), off={"ratio": 1.0})
"""Layers become products of thin ones."""

CHEAPEN = Phase(
    "cheapen",
    cheapened,
    space_of(CheapenActivation),
    off=dict.fromkeys(space_of(CheapenActivation), KEEP),
    suit=suited_activations,
)
"""Activations become cheaper ones."""

SPARSIFY = Phase(
    "sparsify",
    sparsified,
    {
        "pattern": Choice(("2:4", "blocks", "elements")),
        "ratio": _part(PruneConfig, "ratio", low=0.5),
    },
    off={"pattern": NONE},
    defaults={"ratio": 0.75},
    when={"ratio": ("pattern", ("blocks", "elements"))},
)
"""Weights become zero in patterns that kernels skip."""

GROW = Phase("grow", widened, {"width": _part(Widen, "ratio", 1.5, 2.0)}, off={"width": 1.0})
"""More channels and hidden units, which compute the same to begin with."""

DEEPEN = Phase("deepen", deepened, {"times": _part(Deepen, "times", high=2)}, off={"times": 0})
"""More layers or residual branches, which compute the same to begin with."""


def _training(name: str, space: Space, *, teaches: bool = False) -> Phase:
    return Phase(
        name,
        trained,
        space,
        off={"epochs": 0},
        defaults=USUAL,
        when={option: on for option, on in WHEN.items() if option in space},
        keeps_structure=True,
        teaches=teaches,
        needs="train",
        suit=suited_training,
    )


_LARGE: Space = {
    "epochs": _part(TrainConfig, "epochs", high=40),
    "learning_rate": _part(TrainConfig, "learning_rate", 3e-4, 1e-2),
}
_SMALL: Space = {
    "epochs": _part(TrainConfig, "epochs", high=10),
    "learning_rate": _part(TrainConfig, "learning_rate", high=1e-3),
}

LEARN = _training("learn", {**_LARGE, **TECHNIQUES}, teaches=True)
"""Training of the large model, of which smaller ones learn."""

IMPROVE = _training("improve", {**_LARGE, **TAUGHT, **TECHNIQUES})
"""Training of what is left, from the labels and the larger model."""

TUNE = _training("tune", {**_SMALL, "distill": TAUGHT["distill"], "temperature": TAUGHT["temperature"]})
"""Training with the integers."""

QUANTIZE = Phase(
    "quantize",
    quantized,
    {
        "config": Choice((INT8, "int8-accurate")),
        "widths": Choice((UNIFORM, BUDGET)),
        **space_of(Budget, "min_sqnr"),
    },
    off={"config": NONE},
    when={"min_sqnr": ("widths", (BUDGET,))},
    suit=suited_integers,
)
"""8-bit integers; "int8" is what suits the target. A budget of noise lets a solver choose the layers."""

SHRINK_FIRST: tuple[Candidate, ...] = (
    {},
    {"quantize.config": "int8"},
    *({"prune.ratio": ratio, "quantize.config": "int8"} for ratio in (0.25, 0.5, 0.75)),
    {"prune.ratio": 0.5},
    {"sparsify.pattern": "blocks", "sparsify.ratio": 0.75},
    {"sparsify.pattern": "2:4", "quantize.config": "int8"},
)
"""What is worth trying in any case: nothing, and a little of each."""

UNTRAINED_FIRST: tuple[Candidate, ...] = (
    {},
    {"quantize.config": "int8"},
    {"quantize.config": "int8-accurate"},
    {"prune.ratio": 0.05, "quantize.config": "int8"},
    {"prune.ratio": 0.15, "quantize.config": "int8"},
    {"sparsify.pattern": "elements", "sparsify.ratio": 0.5},
    {"sparsify.pattern": "elements", "sparsify.ratio": 0.5, "quantize.config": "int8"},
    {"sparsify.pattern": "2:4", "quantize.config": "int8"},
    {"prune.ratio": 0.05},
)
"""The same for models that nothing trains again."""

IMPROVED: Candidate = {"improve.epochs": 10, "improve.learning_rate": 2e-3, "improve.temperature": 4.0}

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "shrink-and-improve",
            (SHORTEN, PRUNE, FACTOR, CHEAPEN, SPARSIFY, IMPROVE, QUANTIZE, TUNE),
            tuple({**candidate, **IMPROVED} if candidate else candidate for candidate in SHRINK_FIRST),
            UNTRAINED_FIRST,
        ),
        Strategy(
            "grow-improve-and-shrink",
            (GROW, DEEPEN, LEARN, PRUNE, FACTOR, CHEAPEN, SPARSIFY, IMPROVE, QUANTIZE, TUNE),
            tuple(
                {"grow.width": 2.0, "learn.epochs": 20, "learn.learning_rate": 2e-3, **IMPROVED, **candidate}
                for candidate in SHRINK_FIRST
            ),
            UNTRAINED_FIRST,
        ),
    )
}
"""By name. Phases that lack data or have nothing to do are left out."""


def strategy_of(strategy: str | Strategy, **changes: Any) -> Strategy:
    """The Strategy that a name means. Raises InvalidInput for an unknown one."""
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise InvalidInput(f"strategy must be a Strategy or one of {sorted(STRATEGIES)}, not {strategy!r}")
        strategy = STRATEGIES[strategy]
    if not isinstance(strategy, Strategy):
        raise InvalidInput(f"strategy must be a Strategy or one of {sorted(STRATEGIES)}, not {strategy!r}")
    return replace(strategy, **changes)
