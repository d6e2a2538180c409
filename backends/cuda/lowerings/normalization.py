"""Softmax, layer norm and RMS norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ...tvm.graph_lowering import OpRule, dtype_name
from ...tvm.lowerings.view_ops import argument
from ..kernels.norm import LayerNorm
from ..kernels.softmax import Softmax
from ..lowering import CudaLowering
from ..target import CudaTarget
from .rows import rows_along, vector_of

aten = torch.ops.aten

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check(node: Node, target: CudaTarget) -> str | None:
    for value in (node.meta["val"], *(n.meta["val"] for n in node.all_input_nodes)):
        if value.dtype not in FLOATS:
            return f"its operands must be {' or '.join(map(str, FLOATS))}, not {value.dtype}"
    return None


def softmax(log: bool) -> Callable[[Node, CudaLowering], None]:
    def lower(node: Node, cx: CudaLowering) -> None:
        x, out = cx.view(node.args[0]), cx.output(node, strided=True)
        if not x.shape:
            x, out = x.expand((1,)), out.expand((1,))
        dim = node.args[1] % len(x.shape)
        read, written = rows_along(x, [dim]), rows_along(out, [dim])
        assert read is not None
        assert written is not None
        cx.call(Softmax(read, written, log, vector_of((read, x), (written, out))), x, out)

    return lower


def layer_norm(node: Node, cx: CudaLowering) -> None:
    _normalize(node, cx, argument(node, 2, "weight"), argument(node, 3, "bias"), argument(node, 4, "eps", 1e-5), False)


def rms_norm(node: Node, cx: CudaLowering) -> None:
    eps = argument(node, 3, "eps")
    least = torch.finfo(node.meta["val"].dtype).eps
    _normalize(node, cx, argument(node, 2, "weight"), None, least if eps is None else eps, True)


def _normalize(node: Node, cx: CudaLowering, weight: Any, bias: Any, eps: float, rms: bool) -> None:
    x, out = cx.view(node.args[0]), cx.output(node)
    dims = list(range(len(x.shape) - len(node.args[1]), len(x.shape)))
    read, written = rows_along(x, dims), rows_along(out, dims)
    if read is None:
        x = cx.contiguous(x, "copy: the normalised dimensions must be walked by one stride")
        read = rows_along(x, dims)
    assert read is not None
    assert written is not None
    given = [cx.contiguous(p) for p in (weight, bias) if p is not None]
    weight_dtype, bias_dtype = (None if p is None else dtype_name(p.meta["val"].dtype) for p in (weight, bias))
    kernel = LayerNorm(read, written, eps, weight_dtype, bias_dtype, rms, vector_of((read, x), (written, out)))
    cx.call(kernel, x, *given, out)


RULES: dict[Any, OpRule] = {
    aten.softmax.int: OpRule(softmax(log=False), check),
    aten._softmax.default: OpRule(softmax(log=False), check),
    aten.log_softmax.int: OpRule(softmax(log=True), check),
    aten._log_softmax.default: OpRule(softmax(log=True), check),
    aten.layer_norm.default: OpRule(layer_norm, check),
    aten.rms_norm.default: OpRule(rms_norm, check),
}
