"""`fxpress.export_onnx`: a Program as an ONNX file in which quantised ops are float ops between Q and DQ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.fx import Node

from ..arguments import arguments
from ..errors import BackendUnavailable, InvalidInput, Unsupported
from ..ops import fxpress
from ..printer import op_name
from ..program import Program
from ..runtime.container import replaced_file

MOST_BYTES = 2**31 - 1
"""A protobuf holds no more."""


def export_onnx(program: Program, path: str | Path) -> None:
    """Write `program` (quantised or not) to an ONNX file, whole or not at all.

    A quantised op becomes its float op between DequantizeLinear and QuantizeLinear, with the Program's scales and zero
    points, weights int8 with a scale for each output channel. A runtime computes it with integers or in float32; where
    it rounds otherwise than fxpress, results of a layer may differ by one step. Inputs and outputs are flat, named
    like the Program's inputs and `output_0`, `output_1`, ...

    Raises Unsupported listing every op without an ONNX form, InvalidInput for sizes that vary and files that would be
    larger than 2 GB, BackendUnavailable without the package onnx.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError as error:
        raise BackendUnavailable("export_onnx needs the package onnx: pip install onnx") from error
    from .onnx_graph import IR_VERSION, TYPES

    if not isinstance(program, Program):
        raise InvalidInput(f"program must be a Program, not {type(program).__name__}; fxpress.capture makes one")
    if program.is_dynamic:
        raise InvalidInput("program must have fixed sizes to become an ONNX file; capture it without dynamic_shapes")
    graph = _graph(program)
    inputs = [_info(helper, TYPES, node.name, node) for node in program.placeholders]
    outputs = []
    for index, node in enumerate(program.results):
        graph.nodes.append(helper.make_node("Identity", [graph.name(node)], [f"output_{index}"]))
        outputs.append(_info(helper, TYPES, f"output_{index}", node))
    body = helper.make_graph(graph.nodes, "fxpress", inputs, outputs, list(graph.initializers.values()))
    model = helper.make_model(
        body, producer_name="fxpress", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", graph.opset)]
    )
    if model.ByteSize() > MOST_BYTES:
        raise InvalidInput(f"program must be smaller than 2 GB to become one ONNX file, not {model.ByteSize()} bytes")
    onnx.checker.check_model(model)
    with replaced_file(Path(path)) as file:
        file.write(model.SerializeToString())


def _graph(program: Program) -> Any:
    from .onnx_float import FLOAT
    from .onnx_graph import Graph
    from .onnx_quantized import QUANTIZED

    table = FLOAT | QUANTIZED
    _refuse(program, table)
    graph = Graph(program)
    for node in program.nodes:
        if node.op == "placeholder":
            graph.set(node, node.name)
        elif node.op == "call_function":
            table[node.target](graph, node, arguments(node) if hasattr(node.target, "_schema") else {})
    return graph


def _refuse(program: Program, table: Any) -> None:
    """Raise Unsupported listing every node that has no ONNX form."""
    from .onnx_quantized import QUANTIZED, why_computed

    checks, computing = _checks(), {*QUANTIZED, fxpress.linear.default}
    problems = []
    for node in program.nodes:
        if node.op != "call_function":
            continue
        reason = None if node.target in table else "it has no ONNX form here"
        if reason is None and node.target in checks:
            reason = checks[node.target](arguments(node))
        if reason is None and node.target in computing:
            reason = why_computed(arguments(node))
        if reason is not None:
            source = f" ({node.meta['source']})" if node.meta.get("source") else ""
            problems.append(f"- %{node.name}: {op_name(node.target)}{source}: {reason}")
    if problems:
        raise Unsupported(f"{len(problems)} node(s) cannot be exported to ONNX:\n" + "\n".join(problems))


def _checks() -> dict[Any, Callable[[dict[str, Any]], str | None]]:
    import torch

    from . import onnx_float, onnx_quantized

    aten = torch.ops.aten
    return {
        fxpress.avg_pool.default: onnx_float.why_pool,
        fxpress.adaptive_avg_pool.default: onnx_float.why_adaptive,
        fxpress.resize.default: onnx_float.why_resize,
        fxpress.attention.default: onnx_float.why_attention,
        aten.scaled_dot_product_attention.default: onnx_float.why_attention,
        aten._to_copy.default: onnx_float.why_cast,
        aten.index.Tensor: onnx_float.why_index,
        aten.linalg_vector_norm.default: onnx_float.why_norm,
        aten.sum.dim_IntList: onnx_float.why_sum,
        fxpress.quantized_attention.default: onnx_quantized.why_attention,
        fxpress.weight_only_linear.default: onnx_quantized.why_weight_only,
    }


def _info(helper: Any, types: Any, name: str, node: Node) -> Any:
    value = node.meta["val"]
    if value.dtype not in types:
        raise Unsupported(f"%{node.name} must have one of {sorted(map(str, types))} to be exported, not {value.dtype}")
    return helper.make_tensor_value_info(name, types[value.dtype], list(value.shape))
