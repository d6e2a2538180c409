"""Programs on disk: one zip with the graph as JSON and constants as safetensors. No pickle."""

from __future__ import annotations

import json
import math
import operator
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.fx import Graph, GraphModule, Node

from . import ops as _ops  # noqa: F401  (defines torch.ops.fxpress)
from .errors import InvalidInput, Unsupported
from .printer import op_name
from .program import PassRecord, Program
from .runtime.signature import Signature
from .runtime.structure import Structure

FORMAT = 1


def save_program(program: Program, path: Path, pipeline: str = "") -> None:
    """Write `program` (and the pipeline to rerun, for a reproducer) to `path`, whole or not at all."""
    if program.is_dynamic:
        raise Unsupported("a Program with symbolic sizes cannot be saved; save the model and capture it again")
    document = {
        "format": FORMAT,
        "nodes": [_encode_node(node) for node in program.graph.nodes],
        "signature": program.signature.to_json(),
        "outputs": program.outputs.to_json(),
        "facts": sorted(program.facts),
        "history": [vars(record) for record in program.history],
        "pipeline": pipeline,
    }
    tensors = {f"constant.{k}": v.contiguous().clone() for k, v in program.constants.items()}
    tensors |= {f"example.{i}": v.contiguous().clone() for i, v in enumerate(program.example_inputs)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        with zipfile.ZipFile(temporary, "w") as file:
            file.writestr("program.json", json.dumps(document))
            file.writestr("tensors.safetensors", safetensors.torch.save(tensors))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_program(path: Path) -> Program:
    """Read what `save_program` wrote; fake values are inferred anew."""
    return load_reproducer(path)[0]


def load_reproducer(path: Path) -> tuple[Program, str]:
    """Read a Program and the pipeline saved with it."""
    try:
        with zipfile.ZipFile(path) as file:
            document = json.loads(file.read("program.json"))
            tensors = safetensors.torch.load(file.read("tensors.safetensors"))
    except (zipfile.BadZipFile, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise InvalidInput(f"{path} must be a file written by Program.save, but: {error}") from error
    if document.get("format") != FORMAT:
        raise InvalidInput(f"{path} must have format {FORMAT}, not {document.get('format')!r}; save it again")
    program = Program(
        _decode_graph(document["nodes"], tensors),
        Signature.from_json(document["signature"]),
        Structure.from_json(document["outputs"]),
        [tensors[f"example.{i}"] for i in range(sum(k.startswith("example.") for k in tensors))],
        [
            PassRecord(**{**r, "rewrites": tuple(r["rewrites"]), "skipped": tuple(r["skipped"])})
            for r in document["history"]
        ],
        document["facts"],
    )
    _infer_all(program)
    return program, document["pipeline"]


def _encode_node(node: Node) -> dict[str, Any]:
    target = op_name(node.target) if node.op == "call_function" else str(node.target)
    return {
        "op": node.op,
        "name": node.name,
        "target": target,
        "args": _encode(node.args),
        "kwargs": _encode(dict(node.kwargs)),
        "source": node.meta.get("source", ""),
    }


def _encode(value: Any) -> Any:
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_encode(x) for x in value]
    if isinstance(value, dict):
        return {"dict": {k: _encode(v) for k, v in value.items()}}
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise Unsupported(f"an argument of type {type(value).__name__} cannot be saved")


def _decode(value: Any, nodes: dict[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode(x, nodes) for x in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "dict":
        return {k: _decode(v, nodes) for k, v in content.items()}
    if kind == "torch":
        return getattr(torch, content)
    return torch.device(content) if kind == "device" else float(content)


def _decode_graph(records: list[dict[str, Any]], tensors: dict[str, torch.Tensor]) -> GraphModule:
    root, graph, nodes = torch.nn.Module(), Graph(), dict[str, Node]()
    for record in records:
        args, kwargs = tuple(_decode(record["args"], nodes)), _decode(record["kwargs"], nodes)
        target = _find_op(record["target"]) if record["op"] == "call_function" else record["target"]
        if record["op"] == "output":
            args = (tuple(args[0]),)
        if record["op"] == "get_attr" and not hasattr(root, target):
            root.register_buffer(target, tensors[f"constant.{target}"])
        node = graph.create_node(record["op"], target, args, kwargs, record["name"])
        if record["source"]:
            node.meta["source"] = record["source"]
        nodes[record["name"]] = node
    return GraphModule(root, graph)


def _find_op(name: str) -> Any:
    if name == "getitem":
        return operator.getitem
    namespace, op, overload = name.split(".")
    if namespace not in ("aten", "fxpress", "prims"):
        raise InvalidInput(f"a Program's op must be of aten, fxpress or prims, not {name!r}")
    return getattr(getattr(getattr(torch.ops, namespace), op), overload)


def _infer_all(program: Program) -> None:
    from .rewriter import Rewriter

    rw = Rewriter(program)
    examples = iter(program.example_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            node.meta["val"] = program.fake_mode.from_tensor(next(examples))
        elif node.op == "get_attr":
            node.meta["val"] = program.fake_mode.from_tensor(program.constant(node))
        elif node.op == "call_function":
            node.meta["val"] = rw.infer(node)
