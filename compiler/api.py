"""The front door: `compile` takes a model through capture, passes and a backend to an Artifact."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .errors import InvalidInput
from .instruments import DumpDirectory, Instrument, PrintChanged, ReportProgress
from .pass_manager import PassManager, Verify
from .program import Program
from .progress import Progress, TerminalProgress
from .registry import lookup
from .rewriter import Pass
from .runtime import Artifact, load
from .target import Target


def compile(
    model: torch.nn.Module | Callable[..., Any] | torch.export.ExportedProgram | Program,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Target = "cpu",
    pipeline: str | Pass | Iterable[Pass | str] = "default",
    verify: Verify = "each",
    fallback: str | None = None,
    num_threads: int | None = None,
    bundle_runtime: bool = False,
    dump_dir: str | Path | None = None,
    print_ir: str | None = None,
    fuel: int | None = None,
    self_test: bool = True,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a model for `target` and return an artifact that is called like the model.

    `model` is a module or a function (with example inputs `args`, `kwargs`), an ExportedProgram or a captured Program.
    `pipeline` is what is done to the Program (see `fxpress passes`). `fallback="torch"` lets ops that have no kernel
    run in PyTorch inside the artifact; without it they raise Unsupported, all listed at once. `dump_dir` receives the
    text of every stage, `print_ir="changed"` prints a diff for each pass. `progress` is called with the name of each
    stage as it begins; by default a terminal shows them. The artifact's self-test has run when this returns, unless
    this machine lacks the GPU that the target names.
    Raises CaptureError, InvalidInput, InvalidProgram, Unsupported.
    """
    if fallback not in (None, "torch"):
        raise InvalidInput(f"fallback must be None or 'torch', not {fallback!r}")
    if print_ir not in (None, "changed"):
        raise InvalidInput(f"print_ir must be None or 'changed', not {print_ir!r}")
    where = Target.parse(target)
    with TerminalProgress() if progress is None else contextlib.nullcontext(progress) as stage:
        instruments: list[Instrument] = [ReportProgress(stage)]
        if dump_dir is not None:
            instruments.append(DumpDirectory(dump_dir))
        if print_ir is not None:
            instruments.append(PrintChanged())
        manager = PassManager(pipeline, verify=verify, target=where, fuel=fuel, instruments=instruments)
        stage("capture")
        captured = as_program(model, args, kwargs)
        optimized = manager.run(captured)
        stage("lower")
        lowered = lookup("backends", where.backend)().lower(optimized, where, fallback=fallback)
        if dump_dir is not None:
            (Path(dump_dir) / "pipeline.txt").write_text(f"{manager}\n")
            (Path(dump_dir) / "lowered.txt").write_text(lowered.text())
        folder = Path(tempfile.mkdtemp(prefix="fxpress-"))
        try:
            path = folder / "model.fxp"
            reference = optimized if _is_lossy(manager, captured, optimized) else captured
            lowered.build(path, reference, bundle_runtime=bundle_runtime, progress=stage)
            artifact = load(path, num_threads=num_threads)
            if self_test and artifact.runs_here:
                stage("self-test")
                artifact.self_test()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    weakref.finalize(artifact, shutil.rmtree, folder, ignore_errors=True)
    return artifact


def _is_lossy(manager: PassManager, before: Program, after: Program) -> bool:
    """Whether a pass changed the numbers on purpose, so that only the result says what the artifact must compute."""
    lossy = {str(p) for p in manager.passes if p.accuracy == "lossy"}
    return any(record.changed and record.name in lossy for record in after.history[len(before.history) :])


def as_program(
    model: torch.nn.Module | Callable[..., Any] | torch.export.ExportedProgram | Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
) -> Program:
    """The Program of anything that `compile` and `quantize` take. Raises CaptureError, InvalidInput."""
    if isinstance(model, Program):
        return model
    from .capturing import capture, from_exported

    if isinstance(model, torch.export.ExportedProgram):
        return from_exported(model)
    if not callable(model):
        raise InvalidInput(
            f"model must be a torch.nn.Module, a function, an ExportedProgram or a Program, not {type(model).__name__}"
        )
    positional = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    return capture(model, positional, dict(kwargs or {}))
