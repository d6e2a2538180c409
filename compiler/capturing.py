"""From a PyTorch model to a Program, through torch.export."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from .capture_errors import Diagnosis, Frame, capture_error, explain, memory, own_failure, quiet_export
from .decompositions import decomposition_table
from .errors import CaptureError, InvalidInput
from .flat_graph import flat_graph
from .model_state import find_change, kept_dicts, read_state, settles
from .printer import print_type
from .program import Program
from .runtime.signature import Signature
from .runtime.structure import Structure

_log = logging.getLogger("fxpress.capture")

Model = torch.nn.Module | Callable[..., Any]


def capture(
    model: Model | ExportedProgram,
    args: Sequence[Any] | torch.Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Program:
    """Trace `model(*args, **kwargs)` for inference and return it as a Program.

    Arguments may be tensors nested in tuples, lists, dicts, named tuples and dataclasses; None, numbers and strings
    among them are baked into the Program. What the model returns keeps its structure. The model is traced in
    evaluation mode (its own mode is restored) and shares its parameters with the Program. `dynamic_shapes` is what
    `torch.export.export` takes: by argument name or in order, with `torch.export.Dim` for each size that varies. An
    ExportedProgram was traced already and is taken as it is.

    Raises CaptureError, which names the line of the model, the cause and the remedy, when the model cannot be traced.
    """
    if isinstance(model, ExportedProgram):
        return from_exported(model)
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    kwargs = dict(kwargs or {})
    module = model if isinstance(model, torch.nn.Module) else _FunctionModel(model)
    positional = _check_call(model, args, kwargs)
    arguments, leaves = Structure.of(args, _is_tensor, "args")
    named, named_leaves = Structure.of(kwargs, _is_tensor, "kwargs")
    signature = Signature(positional, arguments, named)
    shapes = _flat_shapes(signature, dynamic_shapes, leaves + named_leaves)
    inputs = tuple(tensor.detach() for tensor in (*leaves, *named_leaves))
    flat = _FlatModel(module, signature)
    if any(part.training for part in module.modules()):
        _log.info("the model is in training mode; it is captured in evaluation mode")
    with _evaluation_mode(module), torch.no_grad():
        try:
            with quiet_export():
                exported = torch.export.export(flat, inputs, dynamic_shapes=shapes)
                exported = exported.run_decompositions(decomposition_table())
        except _ModelFailed:
            raise _model_failure(flat, inputs) from flat.found.failure
        except Exception as error:  # whatever torch.export raises, the doctor has something better to say
            raise explain(error) from error
        if flat.found.change is not None:
            name, frame = flat.found.change
            if not settles(module, name, flat.results_of, inputs):
                raise capture_error(memory(name), frame)
    return Program(flat_graph(exported, signature), signature, flat.found.outputs, inputs)


def from_exported(exported: ExportedProgram) -> Program:
    """The Program of an ExportedProgram, for instance one read with `torch.export.load`.

    Raises InvalidInput when it was exported without example inputs, CaptureError when it changes its state.
    """
    if exported.example_inputs is None:
        raise InvalidInput("the ExportedProgram must have example inputs, not None: export it again with its arguments")
    args, kwargs = exported.example_inputs
    arguments, leaves = Structure.of(tuple(args), _is_tensor, "args")
    named, named_leaves = Structure.of(dict(kwargs), _is_tensor, "kwargs")
    names = tuple(
        str(spec.arg.name) for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT
    )
    positional = names if len(names) == len(args) + len(kwargs) else ()
    with torch.no_grad(), quiet_export():
        decomposed = exported.run_decompositions(decomposition_table())
    signature = Signature(positional[: len(args)], arguments, named)
    return Program(
        flat_graph(decomposed, signature),
        signature,
        _exported_outputs(exported),
        tuple(tensor.detach() for tensor in (*leaves, *named_leaves)),
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


class _FunctionModel(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class _ModelFailed(BaseException):
    """Leaves torch.export from inside the model. No Exception: torch.export prints its whole graph for those."""


class _Found:
    """What tracing finds out. Not plain attributes of the module: torch.export restores those after tracing."""

    outputs: Structure
    failure: Exception
    change: tuple[str, Frame | None] | None = None


class _FlatModel(torch.nn.Module):
    """The model as a function from flat tensors to flat tensors."""

    def __init__(self, model: torch.nn.Module, signature: Signature) -> None:
        super().__init__()
        self.model = model
        self.signature = signature
        self.found = _Found()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with kept_dicts(self.model):
            state = read_state(self.model)
            try:
                outputs = self.call_model(tensors)
                self.found.outputs, results = Structure.of(outputs, _is_tensor, "output")
            except Exception as error:
                self.found.failure = error
                raise _ModelFailed from error
            self.found.change = find_change(state, self.model)
        return tuple(results)

    def results_of(self, model: torch.nn.Module, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """The tensors that `model`, a copy of the captured one, returns."""
        outputs = _FlatModel(model, self.signature).call_model([tensor.clone() for tensor in tensors])
        return Structure.of(outputs, _is_tensor, "output")[1]

    def call_model(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Call the model with its own nested arguments."""
        leaves = iter(tensors)
        args = self.signature.args.unflatten(leaves)
        return self.model(*args, **self.signature.kwargs.unflatten(leaves))


def _model_failure(flat: _FlatModel, inputs: Sequence[torch.Tensor]) -> CaptureError:
    """The doctor's word on a model that raised while traced: first see whether it works when it is not."""
    try:
        flat.call_model([tensor.clone() for tensor in inputs])
    except Exception as error:
        names = zip(flat.signature.leaf_names(), inputs, strict=True)
        return own_failure(error, ", ".join(f"{name}: {print_type(tensor)}" for name, tensor in names))
    return explain(flat.found.failure)


def _check_call(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the parameters that may be passed by position. Raises CaptureError for arguments that do not fit."""
    signature = inspect.signature(model.forward if isinstance(model, torch.nn.Module) else model)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        remedy = f"pass in args and kwargs what forward{signature} expects"
        raise capture_error(Diagnosis(f"it does not take these arguments: {error}", remedy), None) from error
    parameters = signature.parameters.values()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


@contextmanager
def _evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def _flat_shapes(signature: Signature, dynamic_shapes: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """`dynamic_shapes` of the model's nested arguments as those of the flat tensors."""
    if dynamic_shapes is None:
        return None
    parameters = signature.parameters()
    names = [name for name, _ in parameters]
    if isinstance(dynamic_shapes, Mapping):
        unknown = [name for name in dynamic_shapes if name not in names]
        if unknown:
            raise InvalidInput(f"dynamic_shapes must name arguments out of {names}, not {unknown[0]!r}")
        given = [dynamic_shapes.get(name) for name in names]
    elif isinstance(dynamic_shapes, tuple | list) and len(dynamic_shapes) == len(parameters):
        given = list(dynamic_shapes)
    else:
        raise InvalidInput(
            f"dynamic_shapes must be a dict by name or a tuple of {len(parameters)}, not {dynamic_shapes!r}"
        )
    shapes = [
        shape
        for (name, structure), spec in zip(parameters, given, strict=True)
        for shape in _leaf_shapes(structure, spec, name)
    ]
    for shape, tensor, name in zip(shapes, tensors, signature.leaf_names(), strict=True):
        beyond = [dim for dim in shape if dim >= tensor.dim()] if isinstance(shape, Mapping) else []
        if beyond:
            raise InvalidInput(f"dynamic_shapes of {name} must name dimensions below {tensor.dim()}, not {beyond[0]}")
    return (tuple(shapes),)  # one entry: the variadic parameter of _FlatModel.forward


def _leaf_shapes(structure: Structure, spec: Any, path: str) -> list[Any]:
    if structure.kind == "leaf" or spec is None:
        return [spec] * structure.leaf_count
    if structure.kind == "constant":
        return []
    if isinstance(spec, Mapping) and structure.keys:
        specs = [spec.get(key) for key in structure.keys]
    elif isinstance(spec, tuple | list) and len(spec) == len(structure.children):
        specs = list(spec)
    else:
        raise InvalidInput(f"dynamic_shapes of {path} must be built like the argument, not {spec!r}")
    children = zip(structure.children, specs, strict=True)
    return [shape for child, each in children for shape in _leaf_shapes(child, each, path)]


def _exported_outputs(exported: ExportedProgram) -> Structure:
    """The structure of an ExportedProgram's outputs, by building its value with a marker for each tensor."""
    specs = [spec.arg for spec in exported.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    marker = object()
    values = [spec.value if isinstance(spec, ConstantArgument) else marker for spec in specs]
    value = pytree.tree_unflatten(values, exported.call_spec.out_spec)
    return Structure.of(value, lambda leaf: leaf is marker, "output")[0]
