"""Programs on disk: one zip with the graph as JSON and tensors as safetensors. No pickle, and nothing in a file is run.

torch.fx prints a graph as Python code and executes that, so every name in a file must be an identifier, and nodes,
arguments and ops of the kinds that a Program has.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
from keyword import iskeyword
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch.fx import Graph, GraphModule, Node

from . import ops as _ops  # noqa: F401  (defines torch.ops.fxpress)
from .errors import CompilerError, InvalidInput, Unsupported
from .printer import op_name
from .program import PassRecord, Program
from .runtime.container import replaced_file
from .runtime.signature import Signature
from .runtime.structure import Structure
from .verifier import verify

FORMAT = 1
_MEMBERS = ("program.json", "tensors.safetensors")
_TORCH_VALUES = (torch.dtype, torch.layout, torch.memory_format)


def save_program(program: Program, path: Path, pipeline: str = "") -> None:
    """Write `program` (and the pipeline to rerun, for a reproducer) to `path`, whole or not at all."""
    if program.is_dynamic:
        raise Unsupported("a Program with symbolic sizes cannot be saved; save the model and capture it again")
    tensors = {f"constant.{name}": tensor for name, tensor in program.constants.items()}
    tensors |= {f"example.{i}": tensor for i, tensor in enumerate(program.example_inputs)}
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # each with memory of its own
    document = {
        "format": FORMAT,
        "nodes": [_encode_node(node) for node in program.graph.nodes],
        "signature": program.signature.to_json(),
        "outputs": program.outputs.to_json(),
        "facts": sorted(program.facts),
        "history": [vars(record) for record in program.history],
        "pipeline": pipeline,
        # safetensors keeps no strides, but an op may accept only the ones it was captured with
        "strides": {name: list(tensor.stride()) for name, tensor in tensors.items() if not tensor.is_contiguous()},
    }
    contents = json.dumps(document), safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
    with replaced_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for member, content in zip(_MEMBERS, contents, strict=True):
            archive.writestr(member, content)


def load_program(path: Path) -> Program:
    """Read what `save_program` wrote; fake values are inferred anew. Raises InvalidInput when the file is not one."""
    return load_reproducer(path)[0]


def load_reproducer(path: Path) -> tuple[Program, str]:
    """Read a Program and the pipeline saved with it. Raises InvalidInput when the file is not a whole Program."""
    with open(path, "rb") as file:
        try:
            document, tensors = _read(file)
            return _decode_program(document, tensors), _text(document["pipeline"])
        except KeyError as error:
            raise InvalidInput(f"{path} must be a file written by Program.save, but it has no {error}") from error
        except _DAMAGE as error:
            raise InvalidInput(f"{path} must be a file written by Program.save, but: {error}") from error


_DAMAGE = (
    CompilerError, zipfile.BadZipFile, safetensors.SafetensorError, EOFError, OSError,  # what tells of a bad file
    TypeError, ValueError, AttributeError, IndexError, RuntimeError,  # what values of the wrong kind lead to
)  # fmt: skip


def _read(file: IO[bytes]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise InvalidInput(f"its member {info.filename!r} must be stored uncompressed")
        graph, weights = (archive.read(member) for member in _MEMBERS)
    document = json.loads(graph)
    if not isinstance(document, dict):
        raise InvalidInput(f"program.json must hold an object, not a {type(document).__name__}")
    if document["format"] != FORMAT:
        raise InvalidInput(f"its format must be {FORMAT}, not {document['format']!r}; save it again")
    tensors = safetensors.torch.load(weights)
    for name, strides in document["strides"].items():
        tensors[name] = _with_strides(name, tensors[name], strides)
    return document, tensors


def _with_strides(name: str, tensor: torch.Tensor, strides: list[int]) -> torch.Tensor:
    """The same tensor with its elements in another order in memory."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    if min(strides) < 0 or last != tensor.numel() - 1:
        raise InvalidInput(f"the strides of {name} must leave no gaps, not be {strides}")
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def _decode_program(document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Program:
    signature = Signature.from_json(document["signature"])
    program = Program(
        _decode_graph(document["nodes"], tensors),
        signature,
        Structure.from_json(document["outputs"]),
        [tensors[f"example.{i}"] for i in range(signature.leaf_count)],
        [
            PassRecord(
                r["name"],
                tuple(r["rewrites"]),
                tuple(r["skipped"]),
                r["seconds"],
                r["text"],
                tuple(r.get("decisions", ())),
                dict(r.get("recipe", {})),
            )
            for r in document["history"]
        ],
        map(_text, document["facts"]),
    )
    if len(program.placeholders) != signature.leaf_count:
        raise InvalidInput(f"its inputs must be {signature.leaf_count}, not {len(program.placeholders)}")
    if len(program.results) != program.outputs.leaf_count:
        raise InvalidInput(f"its outputs must be {program.outputs.leaf_count}, not {len(program.results)}")
    _infer_all(program)
    verify(program, level=1)
    return program


def _encode_node(node: Node) -> dict[str, Any]:
    target = op_name(node.target) if node.op == "call_function" else str(node.target)
    parameter = {"parameter": True} if node.meta.get("parameter") else {}
    return parameter | {
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
    if isinstance(value, _TORCH_VALUES):
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
    match value:
        case None | bool() | int() | float() | str():
            return value
        case {"node": str(name)} if name in nodes:
            return nodes[name]
        case {"dict": dict(items)} if all(_is_name(name) for name in items):
            return {name: _decode(item, nodes) for name, item in items.items()}
        case {"torch": str(name)} if isinstance(getattr(torch, name, None), _TORCH_VALUES):
            return getattr(torch, name)
        case {"device": str(name)}:
            return torch.device(name)
        case {"float": "inf" | "-inf" | "nan" as text}:
            return float(text)
    raise InvalidInput(f"an argument must be a number, a string, a list or an earlier node, not {value!r:.100}")


def _decode_graph(records: list[dict[str, Any]], tensors: dict[str, torch.Tensor]) -> GraphModule:
    root, graph, nodes = torch.nn.Module(), Graph(), dict[str, Node]()
    if [i for i, record in enumerate(records) if record["op"] == "output"] != [len(records) - 1]:
        raise InvalidInput("its last node, and no other, must be the output")
    for record in records:
        op, name, target = record["op"], record["name"], record["target"]
        args, kwargs = tuple(_decode(record["args"], nodes)), _decode(record["kwargs"], nodes)
        if not _is_name(name) or name in nodes:
            raise InvalidInput(f"a node's name must be an identifier of its own, not {name!r}")
        if op == "call_function":
            target = _find_op(target)
        elif op not in ("placeholder", "get_attr", "output") or not _is_name(target):
            raise InvalidInput(f"node {name!r} must be an input, a constant, an op or the output, not {op} {target!r}")
        if op == "output":
            args = (tuple(args[0]),)
        if op == "get_attr" and target not in root._buffers:
            root.register_buffer(target, tensors[f"constant.{target}"])
        nodes[name] = graph.create_node(op, target, args, kwargs, name)
        if record.get("parameter") is True:
            nodes[name].meta["parameter"] = True
        if record["source"]:
            nodes[name].meta["source"] = _text(record["source"])
    return GraphModule(root, graph)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"a fact, a pipeline and a source must be text, not {value!r:.100}")
    return value


def _is_name(text: str) -> bool:
    return text.isidentifier() and not iskeyword(text)


def _find_op(name: str) -> Any:
    if name == "getitem":
        return operator.getitem
    namespace, op, overload = name.split(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), op), overload)
    except AttributeError as error:
        raise InvalidInput(
            f"a Program's op must be registered before the Program is loaded, not {name!r}; "
            "import the library that defines it first"
        ) from error
    if not isinstance(found, torch._ops.OpOverload):
        raise InvalidInput(f"a Program's op must be one of PyTorch's, not {name!r}")
    return found


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
