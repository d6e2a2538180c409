"""The Program: a flat FX graph of ATen and `fxpress::` ops that runs in PyTorch at every stage of the pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node

from .errors import InvalidInput
from .printer import print_program, print_type
from .runtime.signature import Signature
from .runtime.structure import Structure


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: its name with options, the rewrites it made, how long it took, and the text after it.

    `decisions` are rows of a table for reports, plain data as `report.decisions` writes it; `recipe` is what replays
    the pass, for a Recipe, empty where there is nothing to choose.
    """

    name: str
    rewrites: tuple[str, ...]
    skipped: tuple[str, ...]
    seconds: float
    text: str
    decisions: tuple[Mapping[str, Any], ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the pass rewrote anything."""
        return bool(self.rewrites)


class Program:
    """A traced model.

    `graph_module` is flat: placeholders (the model's tensor inputs in order), `get_attr` nodes (constants), calls of
    OpOverloads, and one output node holding a tuple. Every node has `meta["val"]`, the fake value it computes;
    constants that are parameters of the model have `meta["parameter"]`.
    `signature` says how a caller's nested arguments become the placeholders, `outputs` how the output tuple becomes the
    caller's structure. `facts` are what passes established (for example "batch-norm-folded").
    """

    def __init__(
        self,
        graph_module: GraphModule,
        signature: Signature,
        outputs: Structure,
        example_inputs: Sequence[torch.Tensor],
        history: Iterable[PassRecord] = (),
        facts: Iterable[str] = (),
    ) -> None:
        self.graph_module = graph_module
        self.signature = signature
        self.outputs = outputs
        self.example_inputs = tuple(example_inputs)
        self.history = list(history)
        self.facts = set(facts)
        self.fake_mode = find_fake_mode(graph_module)

    @property
    def graph(self) -> torch.fx.Graph:
        """The FX graph. Change it through a Rewriter only."""
        return self.graph_module.graph

    @property
    def nodes(self) -> list[Node]:
        """All nodes in execution order."""
        return list(self.graph.nodes)

    @property
    def placeholders(self) -> list[Node]:
        """The input nodes, in the order of `example_inputs`."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def output_node(self) -> Node:
        """The single output node; `args[0]` is the tuple of results."""
        return next(node for node in reversed(self.graph.nodes) if node.op == "output")

    @property
    def results(self) -> tuple[Node, ...]:
        """The nodes the Program returns."""
        return tuple(self.output_node.args[0])

    @property
    def constants(self) -> dict[str, torch.Tensor]:
        """The constants in use, by the name `get_attr` nodes have for them."""
        return {str(node.target): self.constant(node) for node in self.graph.nodes if node.op == "get_attr"}

    def constant(self, node: Node) -> torch.Tensor:
        """The tensor a `get_attr` node stands for."""
        if node.op != "get_attr":
            raise InvalidInput(f"node %{node.name} must be a constant, not {node.op}")
        value: Any = self.graph_module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value.detach()  # type: ignore[no-any-return]

    @property
    def is_dynamic(self) -> bool:
        """Whether any input has a symbolic size."""
        return any(
            not isinstance(size, int)
            for node in self.placeholders
            for size in getattr(node.meta.get("val"), "shape", ())
        )

    def run_flat(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Execute in PyTorch on the flat inputs; return the flat outputs.

        Raises InvalidInput naming the input that does not have the dtype and shape the model was captured with.
        """
        self.check_inputs(inputs)
        with torch.no_grad():
            return tuple(Interpreter(self.graph_module).run(*inputs))

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Execute in PyTorch, called like the model, returning what the model returns."""
        return self.outputs.unflatten(list(self.run_flat(*self.signature.bind(args, kwargs))))

    def check_inputs(self, inputs: Sequence[Any]) -> None:
        """Raise InvalidInput naming the flat input that does not have the dtype and shape of the capture."""
        names = self.signature.leaf_names()
        if len(inputs) != len(names):
            raise InvalidInput(f"inputs must be the {len(names)} tensors ({', '.join(names)}), not {len(inputs)}")
        for name, x, node in zip(names, inputs, self.placeholders, strict=True):
            wanted = node.meta["val"]
            if not isinstance(x, torch.Tensor):
                raise InvalidInput(f"{name} must be a tensor {print_type(wanted)}, not {type(x).__name__}")
            fits = x.dim() == wanted.dim() and all(  # a size that varies is no int
                not isinstance(size, int) or size == found for size, found in zip(wanted.shape, x.shape, strict=True)
            )
            if x.dtype != wanted.dtype or not fits:
                raise InvalidInput(
                    f"{name} must be {print_type(wanted)}, not {print_type(x)}; the model was captured for that"
                )

    def text(self) -> str:
        """The Program as text, one node a line. Stable: golden tests and diffs rest on it."""
        return print_program(self)

    def clone(self) -> Program:
        """A copy whose graph can be changed on its own. Constants are shared."""
        module = GraphModule(_SharedConstants(self.graph_module), copy.deepcopy(self.graph))
        for old, new in zip(self.graph.nodes, module.graph.nodes, strict=True):
            new.meta = dict(old.meta)
        return Program(module, self.signature, self.outputs, self.example_inputs, self.history, self.facts)

    def map_constants(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Program:
        """A clone with every constant replaced by `function(constant)`; fake values are not updated."""
        program = self.clone()
        for name, tensor in program.constants.items():
            set_constant(program.graph_module, name, function(tensor))
        return program

    def save(self, path: str | Path) -> None:
        """Write the Program (graph, constants, example inputs, history) to one file without pickle."""
        from .serialize import save_program

        save_program(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Program:
        """Read a Program written by `save`. Raises InvalidInput when the file is not one."""
        from .serialize import load_program

        return load_program(Path(path))

    def __repr__(self) -> str:
        calls = sum(node.op == "call_function" for node in self.graph.nodes)
        return f"<Program: {len(self.placeholders)} inputs, {calls} ops, {len(self.constants)} constants>"


def find_fake_mode(module: GraphModule) -> FakeTensorMode:
    """The fake mode of the graph's values, or a new one for a graph without any."""
    for node in module.graph.nodes:
        value = node.meta.get("val")
        mode = getattr(value, "fake_mode", None)
        if mode is not None:
            return mode  # type: ignore[no-any-return]
    return FakeTensorMode(allow_non_fake_inputs=True)


def set_constant(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Store `tensor` as the constant `name` of `module`."""
    if name in module._parameters:
        del module._parameters[name]
    if name in module._buffers:
        module._buffers[name] = tensor
    elif "." in name:
        raise InvalidInput(f"constant name must be flat, not {name!r}")
    else:
        if hasattr(module, name):
            delattr(module, name)
        module.register_buffer(name, tensor)


class _SharedConstants(torch.nn.Module):
    """Gives a cloned GraphModule the same constant tensors without copying them."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__()
        for node in module.graph.nodes:
            if node.op == "get_attr" and str(node.target) not in self._buffers:
                self.register_buffer(str(node.target), getattr(module, str(node.target)).detach())
