"""fxpress as a backend of torch.compile: `torch.compile(model, backend="fxpress")`. For inference.

Parameters and buffers become constants of the compiled code, as in other backends for inference. When one is replaced
or changed in place the graph is compiled again at its next call. Artifacts are compiled when a graph is called, one
for each set of input shapes, so dynamic shapes cost a compilation per shape and run at the speed of static ones.
Python numbers are constants too; a graph called with very many of them runs in PyTorch from then on.

What fxpress has no code for runs in PyTorch, with a warning: single ops between kernels, or the whole graph where it
cannot be captured (for instance because it changes its inputs). Outputs are always new tensors, never views of inputs.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .api import compile as compile_model
from .capturing import capture
from .errors import CaptureError, InvalidInput

Compiled = Callable[..., Any]

_MOST_VARIANTS = 16  # of a graph that takes Python floats: more mean a number that changes all the time
_OPTIONS = ("target", "pipeline", "fallback", "num_threads")


def fxpress_backend(
    gm: GraphModule, example_inputs: Sequence[Any], *, mode: str | None = None, options: Mapping[str, Any] | None = None
) -> Compiled:
    """Compile a graph of TorchDynamo. What `torch.compile(model, backend="fxpress", options=...)` calls.

    `options` are `target`, `pipeline`, `num_threads` and `fallback` of `fxpress.compile`; `fallback` is "torch" here
    unless given: None makes ops and graphs that fxpress has no code for errors. Raises InvalidInput when gradients are
    required: for training, use another backend.
    """
    unknown = sorted(set(options or {}) - set(_OPTIONS))
    if unknown:
        raise InvalidInput(f"options of the fxpress backend must be out of {list(_OPTIONS)}, not {unknown[0]!r}")
    if mode not in (None, "default"):
        raise InvalidInput(f"mode of the fxpress backend must be None, not {mode!r}")
    _check_inference(gm)
    _check_devices(example_inputs)
    static = tuple(index for index, value in enumerate(example_inputs) if _is_static(value))
    return _Graph(gm, static, {"fallback": "torch", **(options or {})})


@dataclass
class _Parameters:
    """The parameters that a graph was called with, their state then, and the code compiled with them."""

    tensors: tuple[torch.Tensor, ...]  # held, so that no other tensor gets their id
    state: list[tuple[int, int]]
    code: dict[tuple[Any, ...], Compiled] = field(default_factory=dict)


class _Graph:
    """One graph of Dynamo: compiled on demand for the shapes and the parameters it is called with."""

    def __init__(self, gm: GraphModule, static: tuple[int, ...], options: dict[str, Any]) -> None:
        self._gm = _without_grad_modes(gm)
        self._numbers = _floats(gm)
        self._static = static
        self._options = options
        self._parameters: dict[tuple[int, ...], _Parameters] = {}
        self._lock = threading.Lock()

    def __call__(self, *inputs: Any) -> Any:
        if self._numbers:
            inputs = tuple(x.item() if i in self._numbers else x for i, x in enumerate(inputs))
        tensors = tuple(inputs[i] for i in self._static)
        parameters = self._parameters.get(tuple(map(id, tensors)))
        if parameters is None or parameters.state != _state(tensors):
            parameters = self._parameters[tuple(map(id, tensors))] = _Parameters(tensors, _state(tensors))
        rest = [x for i, x in enumerate(inputs) if i not in self._static] if self._static else inputs
        kind = tuple((x.dtype, x.shape) if isinstance(x, torch.Tensor) else x for x in rest)
        code = parameters.code.get(kind)
        if code is None:
            if self._numbers and len(parameters.code) >= _MOST_VARIANTS:
                warnings.warn("fxpress runs a graph in PyTorch: a number that it takes changes too often", stacklevel=2)
                return self._gm(*inputs)
            with self._lock:
                code = parameters.code.get(kind)
                if code is None:
                    code = parameters.code[kind] = self._compile(inputs)
        return code(*(x.detach() for x in rest if isinstance(x, torch.Tensor)))

    def _compile(self, inputs: Sequence[Any]) -> Compiled:
        baked = {i: x for i, x in enumerate(inputs) if i in self._static or not isinstance(x, torch.Tensor)}
        model = _Baked(self._gm, baked, len(inputs))
        tensors = tuple(x.detach() for i, x in enumerate(inputs) if i not in baked)
        if not tensors:
            return model  # constants only: there is nothing to make fast
        return self._code(model, tensors)

    def _code(self, model: torch.nn.Module, tensors: tuple[torch.Tensor, ...]) -> Compiled:
        try:
            artifact = compile_model(capture(model, tensors), **self._options)
        except CaptureError as error:
            if self._options["fallback"] is None:
                raise
            warnings.warn(f"fxpress runs this graph in PyTorch: {error}", stacklevel=2)
            return model
        fallbacks = artifact.manifest["fallbacks"]
        if fallbacks:
            listed = "\n  ".join(fallbacks)
            warnings.warn(f"fxpress has no code for a part of this graph, which stays slow:\n  {listed}", stacklevel=2)
        return artifact


class _Baked(torch.nn.Module):
    """The graph as a function of its tensor inputs alone: parameters and numbers are part of it."""

    def __init__(self, gm: GraphModule, baked: Mapping[int, Any], count: int) -> None:
        super().__init__()
        self.graph_module = gm
        self._numbers = {i: x for i, x in baked.items() if not isinstance(x, torch.Tensor)}
        self._names = {i: f"constant_{i}" for i, x in baked.items() if isinstance(x, torch.Tensor)}
        self._count = count
        for i, name in self._names.items():
            self.register_buffer(name, baked[i].detach())

    def forward(self, *tensors: torch.Tensor) -> Any:
        rest = iter(tensors)
        inputs = []
        for i in range(self._count):
            if i in self._names:
                inputs.append(getattr(self, self._names[i]))
            else:
                inputs.append(self._numbers[i] if i in self._numbers else next(rest))
        with torch.fx.traceback.preserve_node_meta():  # so that nodes know the lines of the user's model
            return torch.fx.Interpreter(self.graph_module).run(*inputs)


def _check_inference(gm: GraphModule) -> None:
    """Raise InvalidInput when an output of the graph would require gradients."""
    outputs: list[Node] = []
    for node in gm.graph.nodes:
        if node.op == "output":
            map_arg(node.args, outputs.append)
    if any(getattr(node.meta.get("example_value"), "requires_grad", False) for node in outputs):
        raise InvalidInput(
            "the fxpress backend is for inference: gradients must not be required, but this graph's outputs require "
            "them; call the model in `with torch.no_grad():` or `with torch.inference_mode():`, or train with another "
            "backend"
        )


def _check_devices(inputs: Sequence[Any]) -> None:
    for value in inputs:
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            raise InvalidInput(f"tensors of the fxpress backend must be on the CPU, not on {value.device}")


def _without_grad_modes(gm: GraphModule) -> GraphModule:
    """The graph without its switches of the grad mode: nothing in it needs gradients."""
    for node in list(gm.graph.nodes):
        if node.target is torch._C._set_grad_enabled and not node.users:
            gm.graph.erase_node(node)
    gm.recompile()
    return gm


def _floats(gm: GraphModule) -> frozenset[int]:
    """Which inputs are Python floats, that Dynamo wraps in tensors when they vary: the graph then takes the numbers."""
    found = set()
    for index, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        wrapped = getattr(node.meta.get("grapharg"), "pass_arg_as_tensor", False)
        if wrapped and all(user.op == "call_method" and user.target == "item" for user in node.users):
            for user in list(node.users):
                user.replace_all_uses_with(node)
                gm.graph.erase_node(user)
            found.add(index)
    gm.recompile()
    return frozenset(found)


def _is_static(value: Any) -> bool:
    """Whether an input of the graph is a parameter or buffer of a module."""
    return isinstance(value, torch.nn.Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None


def _state(tensors: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    """What changes when a tensor is written to or given other memory."""
    try:
        return [(x._version, x.data_ptr()) for x in tensors]
    except RuntimeError:  # tensors made in inference mode do not count their versions
        return [(0 if x.is_inference() else x._version, x.data_ptr()) for x in tensors]
