"""From an ExportedProgram to the flat graph of a Program: constants as nodes, one spelling for each op, provenance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import Graph, GraphModule, Node

from .capture_errors import innermost_user_frame
from .decompositions import ASSERTIONS, respell
from .errors import CaptureError
from .program import find_fake_mode
from .runtime.structure import Signature


def flat_graph(exported: ExportedProgram, signature: Signature) -> GraphModule:
    """The exported graph with constants as `get_attr` nodes and one spelling for each op."""
    _refuse_mutation(exported)
    root = torch.nn.Module()
    graph = Graph()
    nodes: dict[Node, Any] = {}
    inputs = (re.sub(r"\W+", "_", name).strip("_") for name in signature.leaf_names())
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind is InputKind.USER_INPUT:
                if isinstance(spec.arg, ConstantArgument):
                    nodes[node] = spec.arg.value
                    continue
                nodes[node] = graph.placeholder(next(inputs))
            elif node.users:
                name = _constant_name(spec.target, root)
                root.register_buffer(name, _constant(exported, spec.target).detach())
                nodes[node] = graph.get_attr(name)
            else:
                continue
            nodes[node].meta = {"val": node.meta["val"], "source": ""}
        elif node.op == "call_function":
            nodes[node] = graph.node_copy(node, lambda n: nodes[n])
            nodes[node].meta = {"val": node.meta.get("val"), "source": _source(node)}
        elif node.op == "output":
            graph.output(tuple(nodes[result] for result in _results(exported, node))).meta = {"source": ""}
        else:
            raise CaptureError(
                f"operator %{node.name} ({node.op}) must be an ATen op: torch.cond and its kind are not supported"
            )
    _simplify(graph)
    module = GraphModule(root, _renamed(graph))
    _refresh_values(module)
    return module


def _results(exported: ExportedProgram, output: Node) -> Iterator[Node]:
    specs = exported.graph_signature.output_specs
    for spec, result in zip(specs, output.args[0], strict=True):  # type: ignore[arg-type]
        if isinstance(spec.arg, ConstantArgument):
            continue
        if not isinstance(spec.arg, TensorArgument):
            raise CaptureError(f"the model must return tensors, not a size that varies ({spec.arg.name})")
        yield result  # type: ignore[misc]


def _refuse_mutation(exported: ExportedProgram) -> None:
    for spec in exported.graph_signature.output_specs:
        if spec.kind is OutputKind.BUFFER_MUTATION:
            raise CaptureError(f"buffer {spec.target!r} must not be changed by forward: return the new value instead")
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            raise CaptureError(
                f"input {spec.target!r} must not be changed in place: work on a copy, {spec.target}.clone()"
            )


def _constant(exported: ExportedProgram, target: str | None) -> torch.Tensor:
    assert target is not None
    value = exported.state_dict.get(target)
    return value if value is not None else exported.constants[target]


def _constant_name(target: str | None, root: torch.nn.Module) -> str:
    """A flat attribute name for a parameter's path: `encoder.0.weight` is `encoder_0_weight`."""
    base = str(target).removeprefix("model.").replace(".", "_")
    base = base if base.isidentifier() and not hasattr(root, base) else f"constant_{base}"
    name, count = base, 1
    while hasattr(root, name):
        name, count = f"{base}_{count}", count + 1
    return name


def _source(node: Node) -> str:
    """Where in the user's model the node comes from: `model.py:12 in forward (encoder.layer.0)`."""
    frame = innermost_user_frame(node.meta.get("stack_trace") or "")
    place = f"{Path(frame.file).name}:{frame.line} in {frame.function}" if frame else ""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    path = modules[-1][0].removeprefix("L['self']").strip(".") if modules else ""
    path = path.removeprefix("model").removeprefix(".")
    return f"{place} ({path})".strip() if path else place


def _simplify(graph: Graph) -> None:
    """Respell every op, drop the assertions and what nobody uses."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in ASSERTIONS:
            graph.erase_node(node)
            continue
        replacement = respell(node)
        if replacement is not None:
            replacement.meta = replacement.meta or dict(node.meta)
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
    for node in reversed(graph.nodes):
        if node.op in ("call_function", "get_attr") and not node.users:
            graph.erase_node(node)


def _renamed(graph: Graph) -> Graph:
    """The same graph with nodes named after their op and numbered without gaps."""
    renamed = Graph()
    nodes: dict[Node, Node] = {}
    for node in graph.nodes:
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: nodes[n])
        packet = getattr(node.target, "overloadpacket", None)
        name = packet.__name__ if packet is not None else None
        nodes[node] = renamed.create_node(node.op, node.target, args, kwargs, name=name)
        nodes[node].meta = node.meta
    return renamed


def _refresh_values(module: GraphModule) -> None:
    """Compute every fake value anew: respelling may have changed strides."""
    mode = find_fake_mode(module)
    for node in module.graph.nodes:
        if node.op == "call_function":
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
            with mode:
                node.meta["val"] = node.target(*args, **kwargs)
