"""Pruning to a budget: what a model of the costs says is removed, measured, and corrected until the promise holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from ...cpu import CpuTarget
from ...errors import InvalidInput, Unsupported
from ...kernel_times import KernelTimes
from ...pass_manager import PassManager
from ...program import Program
from ...progress import Progress
from ...report.pruned import PROMISED
from ...target import Target
from .budget_search import Search
from .budgets import PruneBudget
from .config import PruneConfig
from .groups import Groups
from .importance import score
from .layer_table import COARSE, FINE, layer_tables, seconds_of
from .meters import Meter, bytes_of, cost_text, meter_of
from .predicted_costs import Levels, add_other_constants, layers_cost, live_costs
from .remove_units import Removal, RemoveUnits
from .selection import least_important
from .steps import held_notes
from .width_choice import Problem
from .widths import Rounding


def prune_to_budget(
    program: Program,
    groups: Groups,
    config: PruneConfig,
    data: Iterable[Sequence[Tensor]],
    target: Target,
    *,
    times: KernelTimes | None = None,
    meter: Meter | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> RemoveUnits:
    """The pass after which `program`, whose groups are `groups`, costs what `config.budget` allows.

    `times` and `meter` take the place of measuring kernels and artifacts; `cache` is a folder that keeps the seconds of
    kernels. Raises InvalidInput for a budget out of reach, with the least that can be reached, and Unsupported for
    sizes that vary and for a target whose costs are not known here.
    """
    if program.is_dynamic:
        raise Unsupported(
            "budget must be for a Program of fixed sizes, not one with sizes that vary, whose costs vary with them; "
            "capture it without dynamic_shapes, or give a ratio"
        )
    budget, stage = PruneBudget.parse(config.budget), progress or (lambda name: None)
    measure = meter or meter_of(budget, program, target, stage)
    rounding = Rounding.of(config, target)
    levels = Levels.of(groups.removable, config, rounding)
    scores = score(program, groups, config, data)
    if budget.kind == "latency":
        measures, shares = [seconds_of(times or _times(target, cache, stage))], COARSE
    else:
        measures, shares = bytes_of(budget.kind), FINE
    tables = layer_tables(program, groups, rounding, target, measures, shares=shares, progress=stage)
    predicted = layers_cost(tables[0], levels)
    if budget.kind != "latency":
        add_other_constants(predicted, program, groups, levels, {layer.node for layer in tables[0]})
    moments = live_costs(program, groups, levels, tables[1]) if budget.kind == "ram" else []
    problem = Problem(levels.losses(scores), predicted, moments)

    def removal(chosen: Sequence[int]) -> Removal:
        left = levels.left(chosen)
        return Removal.of(groups, {g: least_important(each, g.size - left[g]) for g, each in scores.items()})

    def cost(chosen: Sequence[int]) -> float:
        stage(f"prune to {config.budget}: try {len(search.trials) + 1}")
        small = PassManager([RemoveUnits(removal(chosen))], verify="off", target=target).run(program)
        found = measure(small)
        # where the machine became slower or faster meanwhile, it did for both
        return found.cost * whole / found.whole if budget.relative else found.cost

    whole = measure(program).cost
    limit = budget.limit(whole)
    search = Search(problem, whole, limit, cost)
    best = search.run()
    if best is None:
        least = min(trial.measured for trial in search.trials)
        raise InvalidInput(
            f"budget must be at least {budget.kind}={cost_text(budget.kind, least)} ({least / whole:.0%} of "
            f"{cost_text(budget.kind, whole)}), the least that pruning reaches here, not {config.budget!r}; raise it, "
            f"or `most`, which is {config.most:g}"
        )
    costs = {"promised": limit, "measured": best.measured, "predicted": best.predicted, "unpruned": whole}
    told = ", ".join(f"{cost_text(budget.kind, each)} {name}" for name, each in costs.items())
    note = f"{budget.kind}{PROMISED}{told}"
    return RemoveUnits(removal(best.levels), held_notes(groups), promise=note)


def _times(target: Target, cache: Path | None, progress: Progress) -> KernelTimes:
    if not isinstance(target, CpuTarget):
        raise Unsupported(f"budget of latency must be for a CPU, whose kernels can be timed, not {target.kind}")
    return KernelTimes(target, cache=cache, progress=progress)
