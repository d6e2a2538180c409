"""`fxpress.quantize`: from a model or a Program to a Program that computes with integers."""

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
from .rewriter import Pass
from .target import Target

if TYPE_CHECKING:
    from .passes.quantization.scheme import QuantConfig
    from .passes.quantization.scopes import Scope

_QUANTIZED = ("fxpress.quantize", "fxpress.dynamic_linear", "fxpress.weight_only_linear")
_log = logging.getLogger("fxpress.quantize")


def quantize(
    model: torch.nn.Module | Callable[..., Any] | torch.export.ExportedProgram | Program,
    config: str | QuantConfig = "int8",
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    calibration: Iterable[Any] | None = None,
    calibration_items: int | None = None,
    target: str | Target = "cpu",
    ignore: Scope | Sequence[Scope] = (),
    only: Scope | Sequence[Scope] = (),
    cache: str | Path | None = None,
    verify: Verify = "each",
    progress: Progress | None = None,
) -> Program:
    """Quantise a model and return the Program, which runs in PyTorch and which `fxpress.compile` takes.

    `model`, `args` and `kwargs` are as for `fxpress.compile`. `config` is a preset's name (docs/quantization.md lists
    them) or a QuantConfig. `calibration` yields inputs as the model will see them, a tuple (positional arguments), a
    dict (keyword arguments) or a tensor an item; `calibration_items` takes only that many of them. Without it the
    ranges come from generated inputs, which costs accuracy and is logged and recorded. `ignore` keeps in float32 what
    it names, `only` quantises no other layers: names, ops, paths of modules, compiled regular expressions. `cache` is a
    folder where ranges are kept under a hash of model, data and observer.

    Raises InvalidInput for bad data, a scope that matches nothing, weights that are not finite and a model that is
    quantised already, Unsupported for a config or target without integer kernels, and what capturing raises.
    """
    from .passes.quantization.calibration import Calibration
    from .passes.quantization.narrow_floats import NarrowFloats, left_wide
    from .passes.quantization.planning import make_plan
    from .passes.quantization.quantize_ops import QuantizeOps
    from .passes.quantization.scheme import config_of

    chosen, where = config_of(config), Target.parse(target)
    with TerminalProgress() if progress is None else contextlib.nullcontext(progress) as stage:
        stage("capture")
        program = as_program(model, args, kwargs)
        _refuse_quantized(program)
        instruments = [ReportProgress(stage)]
        # layers of attention stay apart: query, key and value have scales of their own
        fused = PassManager("default{merge=false}", verify=verify, target=where, instruments=instruments).run(program)
        cleanup: tuple[Pass | str, ...] = ("merge-duplicates", "drop-dead-code")
        if chosen.float_dtype != "float32":
            narrow = NarrowFloats(chosen.float_dtype, left_wide(fused, _listed(ignore), _listed(only)))
            return PassManager([narrow, *cleanup], verify=verify, target=where, instruments=instruments).run(fused)
        if calibration is None:
            if chosen.is_static:
                _log.warning("no calibration data: ranges are those of generated inputs, which costs accuracy")
            data = Calibration.generate(fused, progress=stage)
        else:
            data = Calibration(calibration, fused, count=calibration_items, progress=stage)
        plan = make_plan(
            fused, chosen, data, where,
            ignore=_listed(ignore), only=_listed(only), cache=None if cache is None else Path(cache),
        )  # fmt: skip
        return PassManager([QuantizeOps(plan), *cleanup], verify=verify, target=where, instruments=instruments).run(
            plan.program
        )


def _refuse_quantized(program: Program) -> None:
    quantized = [node for node in program.graph.nodes if str(node.target).startswith(_QUANTIZED)]
    if quantized:
        raise InvalidInput(
            f"model must not be quantised already, but %{quantized[0].name} is {quantized[0].target}; "
            "quantise the float32 model instead"
        )


def _listed(scopes: Any) -> Sequence[Any]:
    return tuple(scopes) if isinstance(scopes, list | tuple | set | frozenset) else (scopes,)
