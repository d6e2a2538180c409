"""`fxpress.quantize`: from a model or a Program to a Program that computes with integers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from .api import as_program
from .cpu import CpuTarget
from .errors import InvalidInput
from .instruments import ReportProgress
from .pass_manager import PassManager, Verify
from .program import Program
from .progress import Progress, TerminalProgress
from .rewriter import Pass
from .target import Target

if TYPE_CHECKING:
    from .passes.quantization.budget import Budget
    from .passes.quantization.deciding import Profitable
    from .passes.quantization.scheme import QuantConfig
    from .passes.quantization.scopes import Scope

_QUANTIZED = (
    "fxpress.quantize", "fxpress.dequantize", "fxpress.dynamic_linear", "fxpress.weight_only_linear", "fxpress.narrow_",
    "fxpress.codebook", "quantized_decomposed.",
)  # fmt: skip
"""How the names of ops begin that quantisation, this one or another tool's, leaves behind."""
MOST_REASONS = 3
_log = logging.getLogger("fxpress.quantize")


def quantize(
    model: torch.nn.Module | Callable[..., Any] | torch.export.ExportedProgram | Program,
    config: str | QuantConfig | None = None,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    calibration: Iterable[Any] | None = None,
    calibration_items: int | None = None,
    target: str | Target = "cpu",
    ignore: Scope | Sequence[Scope] = (),
    only: Scope | Sequence[Scope] = (),
    pin: Mapping[Scope, str] | None = None,
    profitable: Profitable | None = None,
    budget: Budget | None = None,
    cache: str | Path | None = None,
    verify: Verify = "each",
    progress: Progress | None = None,
) -> Program:
    """Quantise a model and return the Program, which runs in PyTorch and which `fxpress.compile` takes.

    `model`, `args` and `kwargs` are as for `fxpress.compile`. `config` is a preset's name (docs/quantization.md lists
    them) or a QuantConfig; by default it is what suits the target, "int8" for a CPU. `calibration` yields inputs as the
    model will see them, a tuple (positional arguments), a dict (keyword arguments) or a tensor an item;
    `calibration_items` takes only that many of them. Without it the ranges come from generated inputs, which costs
    accuracy and is logged and recorded. `ignore` keeps in float32 what it names, `only` quantises no other layers:
    names, ops, paths of modules, compiled regular expressions.

    `profitable="measure"`, the default for a CPU, times every kernel on this machine, in a process of its own, and
    leaves in float32 what integers do not make faster, conversions included; "predict" asks a simple model instead, as
    "measure" does for the target of another machine; "off", the only choice for other targets, keeps all. `budget`, a
    `fxpress.quantization.Budget`, limits what may be lost in quality, or spent in time or size, and lets a solver give
    each layer its width. `pin` maps scopes to "int8" or "float32", which then stands. `fxpress explain` shows each
    decision with its numbers. `cache` is a folder where ranges, times and sensitivities are kept under hashes of what
    they depend on.

    Raises InvalidInput for bad data, a scope that matches nothing, weights that are not finite, a budget out of reach
    and a model that is quantised already, Unsupported for a config or target without integer kernels, and what
    capturing raises.
    """
    from .passes.quantization.calibration import Calibration
    from .passes.quantization.deciding import decide
    from .passes.quantization.integer_targets import integers_of
    from .passes.quantization.narrow_floats import NarrowFloats, left_wide
    from .passes.quantization.quantize_ops import QuantizeOps
    from .passes.quantization.scheme import config_of

    where = Target.parse(target)
    integers = integers_of(where)
    chosen = config_of(config if config is not None else integers.preset)
    integers.check(chosen, where)
    if chosen.float_dtype != "float32" and (budget is not None or pin):
        raise InvalidInput(
            f"budget and pin must be None for a config with float_dtype={chosen.float_dtype!r}, which is not measured; "
            "ignore= names what stays float32"
        )
    if calibration is None and calibration_items is not None:
        raise InvalidInput(f"calibration_items must be None without calibration, not {calibration_items!r}")
    if profitable is None:
        profitable = "measure" if isinstance(where, CpuTarget) else "off"
    with TerminalProgress() if progress is None else contextlib.nullcontext(progress) as stage:
        stage("capture")
        program = as_program(model, args, kwargs)
        _refuse_quantized(program)
        instruments = [ReportProgress(stage)]
        # layers of attention stay apart: query, key and value have scales of their own
        pipeline = ("default{merge=false,pack=false}", *integers.prepare)
        fused = PassManager(pipeline, verify=verify, target=where, instruments=instruments).run(program)
        cleanup: tuple[Pass | str, ...] = ("fold-constants", "merge-duplicates", "drop-dead-code")
        if chosen.float_dtype != "float32":
            narrow = NarrowFloats(chosen.float_dtype, left_wide(fused, _listed(ignore), _listed(only)))
            return PassManager([narrow, *cleanup], verify=verify, target=where, instruments=instruments).run(fused)
        if calibration is None:
            if chosen.is_static:
                _log.warning("no calibration data: ranges are those of generated inputs, which costs accuracy")
            data = Calibration.generate(fused, progress=stage)
        else:
            data = Calibration(calibration, fused, count=calibration_items, progress=stage)
        plan = decide(
            fused, chosen, data, where,
            ignore=_listed(ignore), only=_listed(only), pin=pin, profitable=profitable, budget=budget,
            cache=None if cache is None else Path(cache), progress=stage,
        )  # fmt: skip
        passes = (QuantizeOps(plan), *cleanup)
        return _told(PassManager(passes, verify=verify, target=where, instruments=instruments).run(plan.program))


def _refuse_quantized(program: Program) -> None:
    quantized = _quantized_nodes(program)
    if quantized:
        raise InvalidInput(
            f"model must not be quantised already, but %{quantized[0].name} is {quantized[0].target}; "
            "quantise the float32 model instead, or compile this one as it is"
        )


def _told(program: Program) -> Program:
    """The Program, after a warning when nothing of it is quantised."""
    if not _quantized_nodes(program):
        notes = [note for record in program.history for note in record.skipped if ": stays float32: " in note]
        more = f"; and {len(notes) - MOST_REASONS} more" if len(notes) > MOST_REASONS else ""
        _log.warning("nothing was quantised: %s%s", "; ".join(notes[:MOST_REASONS]) or "no op has such a form", more)
    return program


def _quantized_nodes(program: Program) -> list[Node]:
    return [node for node in program.nodes if str(node.target).startswith(_QUANTIZED)]


def _listed(scopes: Any) -> Sequence[Any]:
    return tuple(scopes) if isinstance(scopes, list | tuple | set | frozenset) else (scopes,)
