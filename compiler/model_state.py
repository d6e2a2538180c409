"""What a model keeps in Python between calls. A Program has no such memory, so a model that changes it is refused."""

from __future__ import annotations

import copy
import dis
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .capture_errors import Frame

State = dict[str, tuple[Any, torch.nn.Module]]


def read_state(model: torch.nn.Module) -> State:
    """The attributes of every module, and the global variables a forward assigns: a comparable form and the module."""
    state: State = {}
    for path, module in model.named_modules():
        prefix = f"self.{path}." if path else "self."
        for name, value in {**vars(module), **module._buffers}.items():
            if not name.startswith("_") and name != "training":
                state[prefix + name] = _comparable(value), module
        for name, variables in _assigned_globals(type(module).forward):
            state[f"global {name}"] = _comparable(variables.get(name)), module
    return state


def find_change(before: State, model: torch.nn.Module) -> tuple[str, Frame | None] | None:
    """The first value that differs from `before`, and the line that changes it; a dict only if nothing else does.

    A new attribute is no change: nobody can have read it before it was there.
    """
    after = read_state(model)
    changed = [name for name, (value, _) in before.items() if name in after and after[name][0] != value]
    if not changed:
        return None
    name = min(changed, key=lambda name: _is_dict(before[name][0]))
    module = before[name][1]
    return name, _line_that_uses(type(module).forward, name.replace(" ", ".").rpartition(".")[2])


def _is_dict(comparable: Any) -> bool:
    return isinstance(comparable, tuple) and comparable[0] is dict


@contextmanager
def kept_dicts(model: torch.nn.Module) -> Iterator[None]:
    """Give the dicts among the modules' attributes their contents back: tracing leaves tensors of its own in them."""
    saved = [
        (value, dict(value))
        for module in model.modules()
        for name, value in vars(module).items()
        if type(value) is dict and not name.startswith("_")
    ]
    try:
        yield
    finally:
        for live, contents in saved:
            if live.keys() != contents.keys():
                live.clear()
                live.update(contents)


def settles(
    model: torch.nn.Module,
    name: str,
    results: Callable[[torch.nn.Module, Sequence[torch.Tensor]], Sequence[torch.Tensor]],
    inputs: Sequence[torch.Tensor],
) -> bool:
    """Whether the change to `name` is harmless: the first call makes it, and no later result depends on it.

    So it is with a dict of things computed once, or a setting adapted to the size of the inputs. Found out on copies
    of the model: one that was called before, with other inputs, must return what a fresh one does, and change no more.
    `results(model, inputs)` calls it.
    """
    if name.startswith("global "):
        return False
    fresh, used = copy.deepcopy(model), copy.deepcopy(model)
    results(used, [1 - x if x.is_floating_point() else x.flip(tuple(range(x.dim()))) for x in inputs])
    settled = read_state(used)
    pairs = zip(results(fresh, inputs), results(used, inputs), strict=True)
    return all(torch.equal(x, y) for x, y in pairs) and find_change(settled, used) is None


def _comparable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | dict | set):
        return type(value), len(value)
    if isinstance(value, torch.Tensor):
        return torch.Tensor, id(value)
    return type(value)


def _assigned_globals(function: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for instruction in _instructions(function):
        if instruction.opname == "STORE_GLOBAL":
            yield instruction.argval, function.__globals__


def _line_that_uses(function: Any, name: str) -> Frame | None:
    """The line that assigns `name`, or else the first that reads it (to append to it, say)."""
    uses = [x for x in _instructions(function) if x.argval == name and x.positions and x.positions.lineno]
    uses.sort(key=lambda x: not x.opname.startswith("STORE"))
    if not uses:
        return None
    code = function.__code__
    return Frame(code.co_filename, uses[0].positions.lineno, code.co_name)  # type: ignore[arg-type, union-attr]


def _instructions(function: Any) -> list[dis.Instruction]:
    return list(dis.get_instructions(function)) if hasattr(function, "__code__") else []
