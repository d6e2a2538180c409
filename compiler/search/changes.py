"""What the phases of the strategies do to a Program other than training it, and for which models they are.

Options that a phase passes on are declared where they are used: in PruneConfig, in the passes, in Budget.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..cpu import CpuTarget
from ..pass_manager import PassManager
from ..program import Program
from ..pruning import prune
from ..quantizing import quantize
from ..rewriter import Pass
from .phases import Options, Phase, Task
from .ranges import Choice

INT8 = "int8"
KEEP = "keep"
UNIFORM, BUDGET = "uniform", "budget"
"""Whether all layers get integers that gain by them, or those that a budget of noise allows."""
SYMMETRY_BREAKING = 0.05
"""The noise in how copies share weights: without it they would learn the same."""


def pruned(program: Program, options: Options, task: Task) -> Program:
    """Without the share `ratio` of the units, or `blocks` of the residual branches.

    Where there is no training the layers that are left are fitted to the original's.
    """
    from ..passes.pruning.config import PruneConfig

    recovery = "least-squares" if task.calibration and task.train is None else "none"
    return _prune(program, PruneConfig(**{"ratio": 0.0, "recovery": recovery, **options}), task)


def sparsified(program: Program, options: Options, task: Task) -> Program:
    """With zeros in a `pattern`; the weights that are left make up for them where there is data."""
    from ..passes.pruning.config import PruneConfig

    return _prune(program, PruneConfig(**options, reconstruct=bool(task.calibration)), task)


def _prune(program: Program, config: Any, task: Task) -> Program:
    return prune(program, config, calibration=task.calibration or None, target=task.target, progress=task.progress)


def suited_blocks(phase: Phase, task: Task) -> Phase | str:
    """The phase, for models with residual branches."""
    from ..passes.pruning.remove_blocks import find_blocks

    return phase if find_blocks(task.original) else "the model has no residual branches, x + f(x)"


def factored(program: Program, options: Options, task: Task) -> Program:
    """With layers as products of thin ones, that have at most the share `ratio` of their weights."""
    from ..passes.architecture.factor_conv import FactorConv
    from ..passes.architecture.factor_linear import FactorLinear
    from ..passes.quantization.calibration import Calibration

    data = Calibration(task.calibration, program) if task.calibration else None
    return _run(program, task, FactorLinear(ratio=options["ratio"], data=data), FactorConv(ratio=options["ratio"]))


def cheapened(program: Program, options: Options, task: Task) -> Program:
    """With cheaper activations in place of those that the options name."""
    from ..passes.architecture.cheapen_activation import CHOICES, CheapenActivation

    return _run(program, task, CheapenActivation(**{kind: options.get(kind, KEEP) for kind in CHOICES}))


def suited_activations(phase: Phase, task: Task) -> Phase | str:
    """The phase with those activations that the model has."""
    from ..passes.architecture.cheapen_activation import KINDS

    there = {KINDS[node.target] for node in task.original.nodes if node.target in KINDS}
    fitted = phase.without(*(set(phase.space) - there))
    return fitted if fitted.space else f"the model has none of {', '.join(sorted(phase.space))}"


def quantized(program: Program, options: Options, task: Task) -> Program:
    """With integers where they gain, in all layers, or in as many as a noise of at most `min_sqnr` dB allows."""
    from ..passes.quantization.budget import Budget

    return quantize(
        program,
        None if options["config"] == INT8 else options["config"],
        calibration=task.calibration or None,
        target=task.target,
        budget=Budget(min_sqnr=options["min_sqnr"]) if options.get("widths") == BUDGET else None,
        cache=task.cache,
        progress=task.progress,
    )


def suited_integers(phase: Phase, task: Task) -> Phase | str:
    """The phase, which cannot be left out where the target computes integers only."""
    from ..passes.quantization.integer_targets import INTEGERS

    integers = INTEGERS.get(task.target.kind)
    if integers is None:
        return f"{task.target.kind} targets do not compute with integers"
    if integers.static:
        return replace(phase, space={"config": Choice((INT8,))}, off={}, when={})
    return phase if isinstance(task.target, CpuTarget) else phase.without("widths", "min_sqnr")


def widened(program: Program, options: Options, task: Task) -> Program:
    """With `width` times the units, that compute the same."""
    from ..passes.growth.widen import Widen

    return _run(program, task, Widen(ratio=options["width"], noise=SYMMETRY_BREAKING, seed=task.seed))


def deepened(program: Program, options: Options, task: Task) -> Program:
    """With so many `times` more residual branches, or layers where there are none, that compute the same."""
    from ..passes.growth.deepen import BLOCK, LAYER, Deepen
    from ..passes.quantization.calibration import Calibration

    data = Calibration(task.calibration, program) if task.calibration else None
    by_blocks = _run(program, task, Deepen(kind=BLOCK, times=options["times"], data=data))
    if by_blocks.history[-1].changed:
        return by_blocks
    return _run(program, task, Deepen(kind=LAYER, times=options["times"], data=data))


def _run(program: Program, task: Task, *passes: Pass) -> Program:
    return PassManager(passes, target=task.target).run(program)
