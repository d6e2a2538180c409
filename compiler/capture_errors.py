"""The doctor: says why a model could not be captured, where in the user's code, and what to change."""

from __future__ import annotations

import linecache
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch._dynamo.exc import UserError
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from .errors import CaptureError, CompilerError

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)', re.MULTILINE)
_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
_NOISY_LOGGERS = (
    "torch._subclasses.fake_tensor",
    "torch.export._trace",
    "torch.fx.experimental.symbolic_shapes",
)
_NOISY_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The tensor attributes? self\.model\.",
)


@dataclass(frozen=True)
class Frame:
    """A place in the user's code."""

    file: str
    line: int
    function: str

    @property
    def code(self) -> str:
        """The text of the line, or nothing where the source is not at hand."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} in {self.function}"


class Diagnosis(NamedTuple):
    """Why a capture failed and the change that fixes it."""

    cause: str
    remedy: str


def innermost_user_frame(trace: str) -> Frame | None:
    """The last frame of a printed stack that lies neither in PyTorch nor in fxpress."""
    return _innermost([Frame(m["file"], int(m["line"]), m["function"]) for m in _FRAME.finditer(trace)])


def capture_error(diagnosis: Diagnosis, frame: Frame | None) -> CaptureError:
    """The error that says what is wrong, where, and what to do."""
    place = f"\n  at {frame}: {frame.code}" if frame is not None else ""
    return CaptureError(f"the model cannot be captured: {diagnosis.cause}{place}\n  remedy: {diagnosis.remedy}")


def explain(error: Exception) -> CaptureError:
    """The CaptureError for what torch.export, or the model while it was traced, raised."""
    frames = [Frame(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    frame = _innermost(frames)
    return capture_error(_diagnose(error, frame.code if frame is not None else ""), frame)


@contextmanager
def quiet_export() -> Iterator[None]:
    """Keep torch.export from saying what the CaptureError says better, and from warning about its own insides."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    before = [logger.disabled for logger in loggers]
    try:
        with warnings.catch_warnings():
            for message in _NOISY_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            for logger in loggers:
                logger.disabled = True
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


CONTROL_FLOW = Diagnosis(
    "control flow depends on the values of a tensor",
    "choose with torch.where(condition, a, b), or decide outside the model and pass the decision as a Python bool",
)
PYTHON_NUMBER = Diagnosis(
    "a Python number is taken out of a tensor (.item(), .tolist(), int(), float(), range() and the like)",
    "keep the value in a tensor, or compute the number outside the model and pass it as an argument",
)
VARYING_SHAPE = Diagnosis(
    "a shape depends on the values of a tensor (nonzero, unique, a boolean mask as an index)",
    "keep the shape fixed: torch.where or a product with the mask in place of an index, topk in place of nonzero; a "
    "mask that never changes becomes its indices, mask.nonzero(), in __init__",
)
NUMPY = Diagnosis(
    "a tensor leaves PyTorch (.numpy() or a call into another library)",
    "use the torch function that does the same, or do this step outside the model",
)
CHECKED = Diagnosis(
    "an op raises depending on the values of its result (torch.linalg functions that refuse singular input)",
    "call the form that does not check, for example torch.linalg.inv_ex(x).inverse for inv(x), cholesky_ex(x).L for "
    "cholesky(x), solve_ex(a, b).result for solve(a, b); compile it with fallback='torch'",
)
RANDOM = Diagnosis(
    "it draws random numbers, so that equal inputs do not give equal outputs",
    "pass the noise in as an argument; call dropout with training=self.training",
)
BRANCHES = Diagnosis(
    "it holds a branch or a loop over tensors (torch.cond, torch.while_loop and the like)",
    CONTROL_FLOW.remedy,
)


def memory(name: str) -> Diagnosis:
    """For a model that changes the attribute or global variable `name`."""
    return Diagnosis(
        f"forward changes {name}, which a later call may read; a captured model remembers nothing",
        "return the new value as an output and pass it in as an argument of the next call",
    )


def buffer_change(name: str) -> Diagnosis:
    """For a model that writes to the buffer `name`."""
    if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
        return Diagnosis(
            f"batch norm runs in training mode and updates {name}",
            "call batch norm with training=self.training, and do not call train() in forward",
        )
    return memory(f"self.{name}")


def input_change(name: str) -> Diagnosis:
    """For a model that writes to its input `name`."""
    return Diagnosis(f"forward changes its input {name} in place", f"work on a copy: {name} = {name}.clone()")


def writing_op(name: str) -> Diagnosis:
    """For a custom op that is registered as one that writes to its arguments."""
    return Diagnosis(
        f"the custom op {name} writes to its inputs",
        "register a form that returns the new value instead: mutates_args=()",
    )


def _innermost(frames: list[Frame]) -> Frame | None:
    return next((frame for frame in reversed(frames) if not frame.file.startswith(_NOT_THE_USERS)), None)


def _diagnose(error: Exception, code: str) -> Diagnosis:
    message = str(error)
    if isinstance(error, CompilerError):
        return Diagnosis(message, "return tensors only; for a Hugging Face model pass use_cache=False")
    if isinstance(error, UnsupportedOperatorException):
        return _missing_fake(str(error.func))
    if isinstance(error, DynamicOutputShapeException):
        return VARYING_SHAPE
    if isinstance(error, GuardOnDataDependentSymNode | DataDependentOutputException):
        return _data_dependent(code)
    if isinstance(error, TypeError) and re.search(r"\bSym(Int|Float|Bool)\b", message):
        return PYTHON_NUMBER
    if ".numpy() is not supported" in message:
        return NUMPY
    if isinstance(error, UserError) and "Constraints violated" in message:
        return _fixed_size(message)
    return Diagnosis(
        f"{type(error).__name__}: {_first_line(message)}",
        "write this step with tensor operations that torch.export can trace; its whole message stands above",
    )


def _data_dependent(code: str) -> Diagnosis:
    if re.match(r"(if|elif|while|assert)\b", code) or re.search(r"\s(if|and|or|not)\s", code):
        return CONTROL_FLOW
    if re.search(r"\b(item|tolist|int|float|bool|range)\(", code):
        return PYTHON_NUMBER
    return Diagnosis("a size or an index depends on the values of a tensor", PYTHON_NUMBER.remedy)


def _missing_fake(op: str) -> Diagnosis:
    name = "::".join(op.split(".")[:2])
    return Diagnosis(
        f"the custom op {name} does not say what shape and dtype it returns",
        f'describe its result with @torch.library.register_fake("{name}")',
    )


def _fixed_size(message: str) -> Diagnosis:
    found = re.search(r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)", message)
    if found is None:
        suggestions = re.findall(r"^  (\w+ = .*)$", message, re.MULTILINE)
        fixes = f" ({'; '.join(suggestions)})" if suggestions else ""
        return Diagnosis(
            f"the model relates sizes that dynamic_shapes leaves free{fixes}",
            "give torch.export.Dim the same relation, for instance 2 * Dim('half') for an even size",
        )
    name, size = found.groups()
    if size == "1":
        return Diagnosis(
            f"dynamic_shapes lets {name!r} vary, but its example has size 1, which PyTorch treats as a constant",
            "capture with an example of size 2 or more",
        )
    return Diagnosis(
        f"dynamic_shapes lets {name!r} vary, but the model works only when it is {size}",
        f"remove {name!r} from dynamic_shapes, or write x.shape[0] in the model where it now has {size}",
    )


def own_failure(error: Exception, inputs: str) -> CaptureError:
    """For a model that fails without being captured too: the arguments are to blame."""
    frames = [Frame(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    return capture_error(
        Diagnosis(
            f"it fails on these arguments by itself: {type(error).__name__}: {_first_line(str(error))}",
            f"pass the arguments that forward expects; it was called with {inputs}",
        ),
        _innermost(frames),
    )


def _first_line(message: str) -> str:
    return message.strip().split("\n", 1)[0]
