"""GRU and LSTM: for each layer one linear over all time steps and one walk through time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ....cpu import CpuTarget
from ..kernels.linear import Linear
from ..kernels.linear_shape import LinearShape, Rows
from ..kernels.recurrent import Recurrent, Steps
from ..lowering import Lowering, OpRule
from ..views import View


def check(node: Node, target: CpuTarget) -> str | None:
    value, params = node.args[0].meta["val"], node.args[2]
    if value.dtype != torch.float32:
        return f"its input must be float32, not {value.dtype}"
    if value.dim() != 3:
        return f"its input must have 3 dimensions, not {value.dim()}"
    if any(p.op != "get_attr" for p in params):
        return "its weights must be constants"
    _, _, _, has_biases, layers, dropout, train, bidirectional, _ = node.args
    if len(params) != layers * (2 if bidirectional else 1) * (4 if has_biases else 2):
        return "projections (proj_size) have no kernel"
    return "dropout while training has no kernel" if dropout and train else None


def gru(node: Node, cx: Lowering) -> None:
    _recurrent("gru", node, cx, [node.args[1]])


def lstm(node: Node, cx: Lowering) -> None:
    _recurrent("lstm", node, cx, list(node.args[1]))


def _recurrent(kind: str, node: Node, cx: Lowering, initial: Sequence[Node]) -> None:
    source, _, params, has_biases, layers, _, _, bidirectional, batch_first = node.args
    directions = 2 if bidirectional else 1
    final_y = cx.output(node, 0)
    states = [cx.output(node, 1 + i) for i in range(len(initial))]
    starts = [cx.contiguous(n) for n in initial]
    x = cx.view(source)
    if batch_first:
        x, final_y = x.permute([1, 0, 2]), final_y.permute([1, 0, 2])
    steps, batch, _ = x.shape
    hidden = states[0].shape[-1]
    per_direction = 4 if has_biases else 2
    for layer in range(layers):
        first = layer * directions * per_direction
        tensors = [cx.constant_tensor(p) for p in params[first : first + directions * per_direction]]
        w_ih, w_hh, *biases = (tensors[i::per_direction] for i in range(per_direction))
        y = final_y if layer == layers - 1 else cx.temporary((steps, batch, directions * hidden))
        gates = _input_gates(cx, x, torch.cat(w_ih), torch.cat(biases[0]) if biases else None)  # type: ignore[arg-type]
        kernel = Recurrent.choose(
            kind, directions=directions, steps=steps, batch=batch, hidden=hidden, target=cx.target,
            gates=Steps(*gates.strides[:2]), y=Steps(*y.strides[:2]), bias=bool(biases), initial=True,
        )  # fmt: skip
        part = [s.slice(0, layer * directions, directions) for s in (*starts, *states)]
        cx.call(
            kernel,
            gates,
            cx.constant(kernel.pack(w_hh)),  # type: ignore[arg-type]
            *([cx.constant(torch.stack(biases[1]))] if biases else []),  # type: ignore[arg-type]
            *part[: len(starts)],
            y,
            *part[len(starts) :],
        )
        x = y


def _input_gates(cx: Lowering, x: View, weight: torch.Tensor, bias: torch.Tensor | None) -> View:
    """x @ weight.T + bias for all steps: [steps, batch, directions * gates * hidden]."""
    steps, batch, k = x.shape
    n = weight.shape[0]
    if x.strides[-1] != 1 and k != 1:
        x = cx.contiguous(x)
    gates = cx.temporary((steps, batch, n))
    shape = LinearShape(
        outer=steps, inner=batch, n=n, k=k, x=Rows(*x.strides[:2]), y=Rows(*gates.strides[:2]), bias=bias is not None
    )
    kernel = Linear.choose(shape, cx.target)
    cx.call(kernel, x, cx.constant(kernel.pack(weight)), *([cx.constant(bias)] if bias is not None else []), gates)
    return gates


aten = torch.ops.aten


RULES: dict[Any, OpRule] = {
    aten.gru.input: OpRule(gru, check),
    aten.lstm.input: OpRule(lstm, check),
}
