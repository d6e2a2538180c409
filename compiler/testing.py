"""Helpers for testing passes: trace a function, check a pass, count ops, run a reproducer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .errors import InternalError
from .pass_manager import PassManager
from .printer import op_name
from .program import Program
from .rewriter import Pass


def trace(function: Callable[..., Any] | torch.nn.Module, *args: Any) -> Program:
    """Capture a function or module on example inputs. Tensors the function closes over become constants."""
    from .capturing import capture

    module = function if isinstance(function, torch.nn.Module) else _Function(function)
    return capture(module, args)


def check_pass(passes: str | Pass | list[Pass | str], before: Program, *, target: Any = None) -> Program:
    """Run a pass (or pipeline) with every check on and return the result.

    Checks: the program verifies before and after, numbers agree as the pass promises, and a second run changes nothing.
    """
    after = PassManager(passes, numerics=True, target=target).run(before)
    again = PassManager(passes, target=target).run(after)
    if again.text() != after.text():
        raise InternalError(
            f"a second run of the pass must change nothing, but gave:\n{again.text()}\nafter:\n{after.text()}"
        )
    return after


def op_counts(program: Program, *, full_names: bool = False) -> dict[str, int]:
    """How often each op occurs: `{"relu": 1}`; `full_names=True` gives `{"aten.relu.default": 1}`."""
    names = (op_name(node.target) for node in program.graph.nodes if node.op == "call_function")
    return dict(Counter(name if full_names else name.split(".")[1] if "." in name else name for name in names))


def reproduce(path: str | Path) -> Program:
    """Run what a failing compilation saved: the Program before the failing pass, and that pass with all checks."""
    from .serialize import load_reproducer

    program, pipeline = load_reproducer(Path(path))
    return PassManager(pipeline, numerics=True).run(program)


class _Function(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)
