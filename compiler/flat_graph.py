"""From an ExportedProgram to the flat graph of a Program: constants as nodes, one spelling for each op, provenance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized, auto_functionalized_v2
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from .capture_errors import (
    BRANCHES,
    CHECKED,
    PYTHON_NUMBER,
    RANDOM,
    VARYING_SHAPE,
    Frame,
    buffer_change,
    capture_error,
    innermost_user_frame,
    input_change,
    writing_op,
)
from .decompositions import ASSERTIONS, respell
from .errors import CaptureError
from .program import find_fake_mode
from .runtime.signature import Signature

aten = torch.ops.aten


def flat_graph(exported: ExportedProgram, signature: Signature) -> GraphModule:
    """The exported graph with constants as `get_attr` nodes and one spelling for each op."""
    names = [re.sub(r"\W+", "_", name).strip("_") for name in signature.leaf_names()]
    inputs = iter(names)
    _refuse_mutation(exported, dict(zip(_tensor_inputs(exported), signature.leaf_names(), strict=True)))
    _refuse_ops(exported.graph)
    root = torch.nn.Module()
    graph = Graph()
    nodes: dict[Node, Any] = {}
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind is InputKind.TOKEN:
                raise capture_error(CHECKED, _frame(next(iter(node.users))))
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
            if spec.kind is InputKind.PARAMETER:
                nodes[node].meta["parameter"] = True
        elif node.op == "call_function":
            nodes[node] = graph.node_copy(node, lambda n: nodes[n])
            nodes[node].meta = {"val": node.meta.get("val"), "source": _source(node)}
        elif node.op == "output":
            graph.output(tuple(nodes[result] for result in _results(exported, node))).meta = {"source": ""}
        else:
            raise capture_error(BRANCHES, _frame(next(iter(node.users))))
    _simplify(graph)
    module = GraphModule(root, _renamed(graph))
    _refresh_values(module)
    return module


def _tensor_inputs(exported: ExportedProgram) -> list[str]:
    specs = exported.graph_signature.input_specs
    return [s.arg.name for s in specs if s.kind is InputKind.USER_INPUT and not isinstance(s.arg, ConstantArgument)]


def _results(exported: ExportedProgram, output: Node) -> Iterator[Node]:
    specs = exported.graph_signature.output_specs
    for spec, result in zip(specs, output.args[0], strict=True):
        if isinstance(spec.arg, ConstantArgument):
            continue
        if not isinstance(spec.arg, TensorArgument):
            raise CaptureError(f"the model must return tensors, not a size that varies ({spec.arg.name})")
        yield result


def _refuse_mutation(exported: ExportedProgram, inputs: dict[str, str]) -> None:
    output = exported.graph.output_node()
    for spec, result in zip(exported.graph_signature.output_specs, output.args[0], strict=True):
        frame = _frame(result) if isinstance(result, Node) else None
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            raise capture_error(input_change(inputs[str(spec.target)]), frame)
        if spec.kind is OutputKind.BUFFER_MUTATION:
            raise capture_error(buffer_change(str(spec.target).removeprefix("model.")), frame)


def _refuse_ops(graph: Graph) -> None:
    """Refuse a number taken out of a tensor, a shape that depends on values, random numbers, and ops that write."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is aten._local_scalar_dense.default or node.target is aten.item.default:
            raise capture_error(PYTHON_NUMBER, _frame(node))
        if free_unbacked_symbols(node.meta.get("val")):
            raise capture_error(VARYING_SHAPE, _frame(node))
        if _is_random(node):
            raise capture_error(RANDOM, _frame(node))
        if node.target in (auto_functionalized, auto_functionalized_v2):
            raise capture_error(writing_op(node.args[0]._schema.name), _frame(node))


def _is_random(node: Node) -> bool:
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    if node.target is aten.scaled_dot_product_attention.default:
        dropout = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        return bool(dropout != 0.0)
    if node.target in (aten.lstm.input, aten.gru.input):
        dropout, train = node.args[5:7]
        return bool(dropout and train)
    return True


def _constant(exported: ExportedProgram, target: str | None) -> torch.Tensor:
    values: dict[str | None, Any] = {**exported.constants, **exported.state_dict}
    tensor: torch.Tensor = values[target]
    return tensor


def _constant_name(target: str | None, root: torch.nn.Module) -> str:
    """A flat attribute name for a parameter's path: `encoder.0.weight` is `encoder_0_weight`."""
    base = str(target).removeprefix("model.").replace(".", "_")
    base = base if base.isidentifier() and not hasattr(root, base) else f"constant_{base}"
    name, count = base, 1
    while hasattr(root, name):
        name, count = f"{base}_{count}", count + 1
    return name


def _frame(node: Node) -> Frame | None:
    return innermost_user_frame(node.meta.get("stack_trace") or "")


def _source(node: Node) -> str:
    """Where in the user's model the node comes from: `model.py:12 in forward (encoder.layer.0)`."""
    frame = _frame(node)
    place = str(frame) if frame is not None else ""
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
