"""Programs as modules that train, and back; values inside models by name. The only file here that knows passes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..errors import Diverged, InvalidInput
from ..passes.pruning.float_training import TrainableFloats
from ..passes.pruning.float_training import trainable as trainable_floats
from ..passes.quantization.scopes import module_path
from ..passes.quantization.training import TrainableProgram
from ..passes.quantization.training import trainable as trainable_integers
from ..program import Program
from .statistics import batch_norms

Model = Program | nn.Module
M = TypeVar("M", bound=Program | nn.Module)
MOST_LISTED = 30


def as_module(model: Model) -> nn.Module:
    """A module of its own that computes what the model does, and can be trained.

    A Program of integers trains as `fxpress.quantization.trainable` says; a module is copied. Raises InvalidInput for
    anything else, and for a model without parameters.
    """
    if isinstance(model, Program):
        is_quantized = any("quantize" in str(node.target) for node in model.nodes)
        return trainable_integers(model) if is_quantized else trainable_floats(model)
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model must be a Program or a torch.nn.Module, not {type(model).__name__}")
    module = copy.deepcopy(model)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InvalidInput("model must have parameters to train, but it has none, or none with requires_grad")
    return module


def as_model(module: nn.Module, model: M) -> M:
    """The trained `as_module(model)` as what `model` is: a Program, or a module in evaluation mode.

    Raises Diverged where training made parameters NaN or infinite.
    """
    for name, parameter in module.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise Diverged(f"{name} must hold finite numbers, not NaN or infinity; lower the learning rate")
    module.eval()
    if isinstance(module, TrainableFloats | TrainableProgram):
        return cast(M, module.to("cpu").convert())
    return cast(M, module)


def normalizers(module: nn.Module) -> list[Any]:
    """What estimates statistics of batch norms: `batch_norms`, or a whole Program, with one momentum for all."""
    if isinstance(module, TrainableFloats):
        return [module] if len(list(module.statistics.buffers())) else []
    return list(batch_norms(module))


def as_teacher(model: Any) -> Callable[..., Any]:
    """A callable that computes what the teacher, a Program, a module or any callable, does for batches of any size."""
    if isinstance(model, Program):
        return as_module(model).eval()
    if not callable(model):
        raise InvalidInput(f"teacher must be a Program, a module or a callable, not {type(model).__name__}")
    return model  # type: ignore[no-any-return]


@contextlib.contextmanager
def evaluating(model: Callable[..., Any]) -> Iterator[None]:
    """Inside, a module is in evaluation mode, and each part of it is afterwards in the mode it was in."""
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def watched(model: Callable[..., Any], names: Iterable[str], role: str) -> Iterator[dict[str, Tensor]]:
    """The values of the named layers in the model's latest call, in a dictionary by name.

    A layer of a module is a path of a submodule; one of a Program a node's name, or the path of a module, whose last
    node it is. Raises InvalidInput naming what there is for a name that is unknown. `role` is "model" or "teacher".
    """
    wanted, found = list(dict.fromkeys(names)), dict[str, Tensor]()
    if not wanted:
        yield found
    elif isinstance(model, TrainableFloats | TrainableProgram):
        nodes: dict[str, list[str]] = {}
        for name in wanted:
            nodes.setdefault(_node_of(model.program, name, role), []).append(name)

        def watch(node: str, value: Any) -> None:
            found.update(dict.fromkeys(nodes.get(node, ()), value))

        model.watch = watch
        try:
            yield found
        finally:
            model.watch = None
    elif isinstance(model, nn.Module):
        parts = dict(model.named_modules())
        _check_known(wanted, parts, role)
        hooks = [parts[name].register_forward_hook(_recorder(name, found)) for name in wanted]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()
    else:
        raise InvalidInput(f"{role} must be a Program or a module to compare layers, not {type(model).__name__}")


def _recorder(name: str, found: dict[str, Tensor]) -> Callable[..., None]:
    def record(part: nn.Module, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor):
            raise InvalidInput(f"layer {name!r} must return a tensor to be compared, not {type(first).__name__}")
        found[name] = first

    return record


def _node_of(program: Program, name: str, role: str) -> str:
    calls = [node for node in program.nodes if node.op == "call_function"]
    known: dict[str, str] = {}
    for node in calls:
        path = module_path(node)
        for end in range(len(path), 0, -1):
            if end == len(path) or path[end] == ".":
                known[path[:end]] = node.name  # the last one stays
    known |= {node.name: node.name for node in calls if isinstance(node.meta.get("val"), torch.Tensor)}
    _check_known([name], known, role)
    return known[name]


def _check_known(wanted: Iterable[str], known: Iterable[str], role: str) -> None:
    names = [name for name in known if name]
    for name in wanted:
        if name not in names:
            more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
            listed = ", ".join(names[:MOST_LISTED]) + more
            raise InvalidInput(f"layer of the {role} must be one of {listed}, not {name!r}")
