"""`fxpress.prune`: from a model or a Program to one without the channels, heads, units or weights that matter least."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .api import as_program
from .errors import InvalidInput
from .instruments import ReportProgress
from .pass_manager import PassManager, Verify
from .program import Program
from .progress import Progress, TerminalProgress
from .target import Target

if TYPE_CHECKING:
    from .passes.pruning.config import PruneConfig
    from .passes.quantization.scopes import Scope

_log = logging.getLogger("fxpress.prune")


def prune(
    model: torch.nn.Module | Callable[..., Any] | torch.export.ExportedProgram | Program,
    config: float | str | PruneConfig = 0.5,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    calibration: Iterable[Any] | None = None,
    calibration_items: int | None = None,
    target: str | Target = "cpu",
    ignore: Scope | Sequence[Scope] = (),
    only: Scope | Sequence[Scope] = (),
    recover: Callable[[Program, int], Program] | None = None,
    cache: str | Path | None = None,
    verify: Verify = "each",
    progress: Progress | None = None,
) -> Program:
    """Remove units of a model for good and return the smaller Program, which runs, quantises and compiles as any other.

    `model`, `args` and `kwargs` are as for `fxpress.compile`. `config` is a ratio (that share of the channels, heads or
    hidden units of every group that can lose any), a preset's name (docs/pruning.md lists them) or a PruneConfig.
    `calibration` yields inputs as for `fxpress.quantize`; only importance by gradients or activations, which has
    generated inputs without it, and what fits weights read it. `ignore` names layers whose outputs stay whole, `only`
    the only ones that lose any, as in `fxpress.quantize`. `recover(program, step)` is called after each step of a
    schedule and returns the Program to go on with, for example a trained one.

    Without recovery the result equals the original with zeros where consumers read what is gone and norms over what is
    left. What had to stay whole and why is in its history, which `explain` shows; `fxpress.Recipe.of` is what was
    chosen, to be done again.

    With a `pattern` in the config no unit goes: weights of linear layers and convolutions become zero, in the same
    graph, and `ignore` and `only` name layers whose weights stay or the only ones that do not.

    With a `budget` in the config, artifacts are compiled and measured until the promise holds, which the history tells
    too; `cache` is a folder that keeps the measured seconds of kernels for the next time.

    Raises InvalidInput for a ratio outside [0, 1), a budget out of reach, a scope that matches nothing, a model of
    which nothing can be removed, bad data, recovery or reconstruction without calibration data, and what capturing
    raises.
    """
    from .passes.pruning.budgeted import prune_to_budget
    from .passes.pruning.config import config_of
    from .passes.pruning.patterns import UNITS
    from .passes.pruning.refit_layers import RefitLayers
    from .passes.pruning.remove_blocks import least_blocks
    from .passes.pruning.remove_units import Removal
    from .passes.pruning.steps import prune_step, removable_groups
    from .passes.pruning.zero_steps import layers_to_zero, zero_step
    from .passes.quantization.calibration import Calibration

    chosen = config_of(config)
    where = Target.parse(target)
    with TerminalProgress() if progress is None else contextlib.nullcontext(progress) as stage:
        stage("capture")
        program = as_program(model, args, kwargs)
        if "quantized" in program.facts:
            raise InvalidInput(
                "model must be of floats, not quantised already; prune it first, then quantise what is left"
            )
        instruments = [ReportProgress(stage)]
        program = PassManager("drop-dead-code", verify=verify, target=where, instruments=instruments).run(program)
        whole, removals = program, list[Removal]()
        data: Iterable[Any] = ()
        if chosen.recovery != "none" and calibration is None:
            raise InvalidInput(f"calibration must be given with recovery={chosen.recovery!r}, which fits weights to it")
        if chosen.needs_data:
            if calibration is None and chosen.reconstruct:
                raise InvalidInput(
                    "calibration must be given with reconstruct=True, which fits weights to it; pass inputs as the "
                    "model will see them"
                )
            if calibration is None:
                _log.warning("no calibration data: importance is measured on generated inputs")
                data = Calibration.generate(program, progress=stage)
            else:
                data = Calibration(calibration, program, count=calibration_items, progress=stage)

        def recovered(program: Program) -> Program:
            if chosen.recovery == "none":
                return program
            stage("prune: recovery")
            refit = RefitLayers(whole, removals, data)
            return PassManager([refit], verify=verify, target=where, instruments=instruments).run(program)

        if chosen.blocks:
            stage("prune: blocks")
            blocks = least_blocks(program, chosen, data)
            program = PassManager([blocks], verify=verify, target=where, instruments=instruments).run(program)
        if chosen.pattern != UNITS:
            for step in range(1, chosen.steps + 1):
                stage(_stage(chosen, step))
                zeros = zero_step(program, layers_to_zero(program, ignore, only), chosen, data, where, step)
                program = PassManager([zeros], verify=verify, target=where, instruments=instruments).run(program)
                program = program if recover is None else recover(program, step)
            return recovered(program)
        groups = removable_groups(program, ignore, only)
        original = {group.name: group.size for group in groups.removable}
        if not original and not chosen.blocks:
            raise InvalidInput(
                f"model must have channels, heads or hidden units that can be removed, but all must stay:\n"
                f"{groups.details()}"
            )
        for step in range(1, chosen.steps + 1):
            stage(_stage(chosen, step))
            if chosen.budget is not None:
                folder = None if cache is None else Path(cache)
                removal = prune_to_budget(program, groups, chosen, data, where, cache=folder, progress=stage)
            else:
                removal = prune_step(program, groups, chosen, data, original, step, where)
            program = PassManager([removal], verify=verify, target=where, instruments=instruments).run(program)
            removals += [] if removal.removal is None else [removal.removal]
            program = program if recover is None else recover(program, step)
            if step < chosen.steps:
                groups = groups.after(removal.gone, program)
        return recovered(program)


def _stage(config: PruneConfig, step: int) -> str:
    return "prune" if config.steps == 1 else f"prune: step {step} of {config.steps}"
