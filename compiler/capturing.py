"""From a PyTorch model to a Program, through torch.export."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from .capture_errors import explain
from .decompositions import decomposition_table
from .errors import InvalidInput
from .flat_graph import flat_graph
from .program import Program
from .runtime.structure import Signature, Structure

Model = torch.nn.Module | Callable[..., Any]


def capture(
    model: Model,
    args: Sequence[Any] | torch.Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Program:
    """Trace `model(*args, **kwargs)` for inference and return it as a Program.

    Arguments may be tensors nested in tuples, lists, dicts, named tuples and dataclasses; None, numbers and strings
    among them are baked into the Program. What the model returns keeps its structure. The model is traced in
    evaluation mode (its own mode is restored) and shares its parameters with the Program. `dynamic_shapes` is what
    `torch.export.export` takes: by argument name or in order, with `torch.export.Dim` for each size that varies.

    Raises CaptureError, which names the line of the model, the cause and the remedy, when the model cannot be traced.
    """
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    kwargs = dict(kwargs or {})
    arguments, leaves = Structure.of(args, _is_tensor, "args")
    named, named_leaves = Structure.of(kwargs, _is_tensor, "kwargs")
    signature = Signature(_positional_parameters(model), arguments, named)
    shapes = _flat_shapes(signature, dynamic_shapes)
    flat = _FlatModel(model, signature)
    inputs = tuple(tensor.detach() for tensor in (*leaves, *named_leaves))
    with _evaluation_mode(model), torch.no_grad(), explain(model, signature, inputs):
        exported = torch.export.export(flat, inputs, dynamic_shapes=shapes)
        exported = exported.run_decompositions(decomposition_table())
    return Program(flat_graph(exported, signature), signature, flat.outputs, inputs)


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
    with torch.no_grad(), explain(exported, None, ()):
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


class _Found:
    """What tracing finds out. Not a plain attribute of the module: torch.export restores those after tracing."""

    outputs: Structure


class _FlatModel(torch.nn.Module):
    """The model as a function from flat tensors to flat tensors; tracing it finds the structure of the outputs."""

    def __init__(self, model: Model, signature: Signature) -> None:
        super().__init__()
        self.model = model
        self._signature = signature
        self._found = _Found()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = iter(tensors)
        args = self._signature.args.unflatten(leaves)
        kwargs = self._signature.kwargs.unflatten(leaves)
        outputs, results = Structure.of(self.model(*args, **kwargs), _is_tensor, "output")
        self._found.outputs = outputs
        return tuple(results)

    @property
    def outputs(self) -> Structure:
        """The structure of what the model returned when it was last traced."""
        return self._found.outputs


def _positional_parameters(model: Model) -> tuple[str, ...]:
    function = model.forward if isinstance(model, torch.nn.Module) else model
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


@contextmanager
def _evaluation_mode(model: Model) -> Iterator[None]:
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def _flat_shapes(signature: Signature, dynamic_shapes: Any) -> Any:
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
