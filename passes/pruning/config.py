"""How much is removed, of what, in what order: PruneConfig and its presets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from numbers import Real
from typing import Any

from ...errors import InvalidInput
from ...search.ranges import Choice, Range, not_searched, search
from .budgets import PruneBudget
from .patterns import UNITS, parse_pattern

IMPORTANCES = ("l1", "l2", "batch-norm", "taylor", "hessian", "activation", "random")
RANKINGS = ("local", "global")
SCHEDULES = ("one-shot", "iterative", "cubic")
RECOVERIES = ("none", "least-squares")
DEFAULT_RATIO = 0.5
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """How a model is pruned. The presets are `PRESETS`; `dataclasses.replace` makes variants.

    `ratio` is the share of units that go, half without one: of each group with `ranking="local"`, of all together with
    "global", where a group loses at most `most`. `ratios` gives groups that hold a layer named by a scope (as `ignore`
    names layers) a ratio of their own. `importance` says what goes first: the units of least "l1" or "l2" norm of
    weights, "batch-norm" scale, "taylor" (the first-order change of the loss), "hessian" (its second-order change, from
    the diagonal), "activation" (the energy that consumers receive), or "random" ones by `seed`. Of equals the later
    goes first. `multiple` is what the number of indices left is rounded up to a multiple of. `schedule` removes in one
    go, or in `steps` of equal or of cubically falling size, scoring anew each time. `blocks` is the share of residual
    branches, f of x + f(x), that go as a whole before the first step: those that add least. `loss` takes what the model
    returns and gives a number, for "taylor" and "hessian"; without it the change of the outputs themselves counts.

    `pattern` is "units" or where weights of linear layers and convolutions become zero instead: "elements" anywhere,
    "N:M" all but N of M consecutive inputs, "RxC" in blocks of R outputs x C inputs, "blocks" in those that suit the
    target. The ratio is then of the candidates of each such layer, weights or blocks; N:M has its own. With
    `reconstruct` the weights that stay make up for those that go, on calibration data, and "l2" counts the error that
    is left then.

    `recovery` is what is done about the error in the end, on calibration data: "none", or "least-squares", which fits
    the weights of each layer that receives other values anew, so that it gives nearly what it gave in the original.

    `budget` takes the place of a ratio: "latency=10ms", "latency=50%", "size=5MB", "ram=30%" and the like are what the
    compiled model may cost on the target, and units go where the least importance is lost for it. A group loses at most
    `most` then, too.
    """

    ratio: float | None = field(default=None, metadata=search(Range(0.05, 0.95, step=0.05)))
    importance: str = field(default="l2", metadata=search(Choice(("l2", "activation", "hessian"))))
    ranking: str = field(default="local", metadata=search(Choice(RANKINGS)))
    ratios: Mapping[Any, float] = field(default_factory=dict)
    most: float = field(default=0.9, metadata=not_searched("a guard"))
    multiple: int | str = field(default=AUTO, metadata=not_searched("it follows from the target"))
    schedule: str = field(default="one-shot", metadata=not_searched("steps are for training between them"))
    steps: int = field(default=1, metadata=not_searched("steps are for training between them"))
    seed: int = field(default=0, metadata=not_searched("a search has one of its own"))
    blocks: float = field(default=0.0, metadata=search(Range(0.1, 0.5, step=0.1)))
    loss: Callable[[Any], Any] | None = None
    pattern: str = field(default=UNITS, metadata=search(Choice((UNITS, "2:4", "blocks", "elements"))))
    reconstruct: bool = field(default=False, metadata=not_searched("better wherever there is data"))
    recovery: str = field(default="none", metadata=not_searched("better wherever there is data"))
    budget: str | None = field(default=None, metadata=not_searched("it takes the place of a ratio"))

    def __post_init__(self) -> None:
        if not isinstance(self.ratios, Mapping):
            raise InvalidInput(f"ratios must be a dict from scopes to ratios, not {self.ratios!r}")
        for name, ratio in (("ratio", self.goal), ("most", self.most), ("blocks", self.blocks), *self.ratios.items()):
            check_ratio(ratio, f"ratio of {name!r}" if name not in ("ratio", "most", "blocks") else name)
        for name, value, choices in (
            ("importance", self.importance, IMPORTANCES),
            ("ranking", self.ranking, RANKINGS),
            ("schedule", self.schedule, SCHEDULES),
            ("recovery", self.recovery, RECOVERIES),
        ):
            if value not in choices:
                raise InvalidInput(f"{name} must be one of {list(choices)}, not {value!r}")
        for name, number in (("multiple", 1 if self.multiple == AUTO else self.multiple), ("steps", self.steps)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                kind = "'auto' or an integer" if name == "multiple" else "an integer"
                raise InvalidInput(f"{name} must be {kind} of at least 1, not {number!r}")
        if self.schedule == "one-shot" and self.steps != 1:
            raise InvalidInput(
                f"steps must be 1 with schedule='one-shot', not {self.steps}; use 'iterative' or 'cubic'"
            )
        self._check_pattern()
        if self.budget is not None:
            self._check_budget()

    def _check_budget(self) -> None:
        PruneBudget.parse(self.budget)
        for name, value, wanted in (
            ("ratio", self.ratio, None),
            ("ratios", dict(self.ratios), {}),
            ("schedule", self.schedule, "one-shot"),
            ("pattern", self.pattern, UNITS),
        ):
            if value != wanted:
                raise InvalidInput(
                    f"{name} must be {wanted!r} with budget={self.budget!r}, which decides how much of what goes, "
                    f"not {value!r}"
                )

    def _check_pattern(self) -> None:
        pattern = parse_pattern(self.pattern)
        if not isinstance(self.reconstruct, bool):
            raise InvalidInput(f"reconstruct must be True or False, not {self.reconstruct!r}")
        if self.pattern == UNITS:
            if self.reconstruct:
                raise InvalidInput("reconstruct must be False with pattern='units'; it is for patterns of zeros")
            return
        where = f"with pattern={self.pattern!r}"
        if self.importance == "batch-norm":
            raise InvalidInput(f"importance must not be 'batch-norm' {where}: its scales are of whole channels")
        if self.multiple not in (1, AUTO):
            raise InvalidInput(f"multiple must be 1 {where}, which leaves all sizes, not {self.multiple}")
        if pattern is None or pattern.ratio is None:
            return
        if self.ratio is not None and not math.isclose(self.ratio, pattern.ratio, rel_tol=0, abs_tol=1e-6):
            raise InvalidInput(f"ratio must be {pattern.ratio:g} {where}, or left out, not {self.ratio!r}")
        if self.ranking != "local" or self.ratios:
            raise InvalidInput(
                f"ranking must be 'local' and ratios empty {where}, of which every layer has the same share; "
                "use ignore= for layers that are to stay"
            )

    def __str__(self) -> str:
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default and getattr(self, f.name) != {}]
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in changed) or "default"

    @property
    def goal(self) -> float:
        """The share that goes in the end."""
        pattern = parse_pattern(self.pattern)
        implied = None if pattern is None else pattern.ratio
        return next((ratio for ratio in (self.ratio, implied) if ratio is not None), DEFAULT_RATIO)

    @property
    def needs_data(self) -> bool:
        """Whether importance is measured on inputs, or weights are fitted to them."""
        return (
            self.reconstruct
            or self.recovery != "none"
            or self.importance in ("taylor", "hessian", "activation")
            or (self.blocks > 0 and self.importance != "random")
        )

    def share(self, step: int) -> float:
        """How much of what goes in the end is gone after `step`, counted from 1."""
        done = step / self.steps
        return 1 - (1 - done) ** 3 if self.schedule == "cubic" else done


def count_of(ratio: float, size: int) -> int:
    """Never all, nor more than asked for: the share that the ratio as written in decimals has, rounded down."""
    return min(size - 1, math.floor(Fraction(repr(float(ratio))) * size + Fraction(1, 10**9)))


def check_ratio(ratio: Any, name: str) -> None:
    """Raise InvalidInput unless the ratio is a number of [0, 1)."""
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not (0 <= float(ratio) < 1):
        raise InvalidInput(f"{name} must be a number from 0 up to but not 1, not {ratio!r}")


PRESETS: dict[str, PruneConfig] = {
    "uniform": PruneConfig(),
    "global": PruneConfig(ranking="global"),
    "gentle": PruneConfig(ratio=0.25, importance="hessian"),
    "taylor": PruneConfig(importance="taylor"),
    "vector": PruneConfig(multiple=16),
    "random": PruneConfig(importance="random"),
    "2:4": PruneConfig(pattern="2:4"),
    "blocks-75": PruneConfig(pattern="blocks", ratio=0.75),
}


def config_of(config: str | float | PruneConfig, **changes: Any) -> PruneConfig:
    """The PruneConfig that a preset's name or a plain ratio means, with some fields changed. Raises InvalidInput."""
    if isinstance(config, PruneConfig):
        return replace(config, **changes)
    if isinstance(config, str):
        if config not in PRESETS:
            raise InvalidInput(f"config must be a ratio, a PruneConfig or one of {sorted(PRESETS)}, not {config!r}")
        return replace(PRESETS[config], **changes)
    check_ratio(config, "ratio")
    return PruneConfig(**({"ratio": config} | changes))
