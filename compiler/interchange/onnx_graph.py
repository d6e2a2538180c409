"""An ONNX graph under construction: names, initialisers, nodes, and values in either order of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor
from torch.fx import Node

from ..program import Program

OPSET = 20
"""Of files. ONNX Runtime's optimiser contradicts itself about Q and DQ of newer ones, so only blocks, which came with
BLOCKS_OPSET, get that."""
BLOCKS_OPSET = 21
IR_VERSION = 10

TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}


class Graph:
    """Collects ONNX nodes. Values of the Program have a name each; `first` gives one in channels-first order.

    ONNX knows channels-first convolutions only. A channels-last value is kept as it comes out of an op, channels first,
    and transposed when somebody asks for it as it is, so that chains of channels-last ops have no transposes between.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.opset = OPSET
        self._names: dict[Node, str] = {}
        self._first: dict[Node, str] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str, outputs: int | None = None, **attributes: Any) -> Any:
        """Add a node; return the name of its result, or a list of `outputs` names."""
        names = [self._new(kind.lower()) for _ in range(1 if outputs is None else outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs is None else names

    def constant(self, value: Any, dtype: Any = np.float32, name: str = "constant") -> str:
        """An initialiser with this value, which may be a number, a list, an array or a tensor."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype)
        unique = self._new(name)
        self.initializers[unique] = numpy_helper.from_array(np.array(array, order="C"), unique)
        return unique

    def packed(self, tensor: TensorProto) -> str:
        """An initialiser of a type that numpy does not have."""
        self.initializers[tensor.name] = tensor
        return tensor.name

    def shape(self, sizes: Sequence[int]) -> str:
        """Sizes, dims or the like as an initialiser."""
        return self.constant(list(sizes), np.int64, "shape")

    def tensor(self, node: Any) -> Tensor | None:
        """The value of a constant's node, None for any other."""
        return self.program.constant(node) if isinstance(node, Node) and node.op == "get_attr" else None

    def name(self, node: Any) -> str:
        """The name of a value of the Program; a name is its own, a number becomes an initialiser of type float32."""
        if not isinstance(node, Node):
            return node if isinstance(node, str) else self.constant(node)
        if node not in self._names:
            tensor = self.tensor(node)
            if tensor is not None:
                self._names[node] = self.constant(tensor, name=node.name)
            else:
                rank = node.meta["val"].dim()
                self._names[node] = self.op("Transpose", self._first[node], perm=[0, *range(2, rank), 1])
        return self._names[node]

    def first(self, node: Node, channels_last: bool = True) -> str:
        """The name of a channels-last value in channels-first order (of another, as it is)."""
        if not channels_last:
            return self.name(node)
        if node not in self._first:
            rank = node.meta["val"].dim()
            self._first[node] = self.op("Transpose", self.name(node), perm=[0, rank - 1, *range(1, rank - 1)])
        return self._first[node]

    def pointwise(self, node: Node, operands: Sequence[Any], make: Callable[..., str]) -> None:
        """Let a node be `make(*names)` of its operands, channels first where those of its rank are that already."""
        rank = node.meta["val"].dim()
        types = [x.meta["val"].dtype for x in operands if isinstance(x, Node)]
        number = helper.tensor_dtype_to_np_dtype(TYPES[types[0]]) if types else np.float32
        operands = [x if isinstance(x, Node) else self.constant(x, number) for x in operands]
        large = [x for x in operands if isinstance(x, Node) and x.meta["val"].dim() == rank and self.tensor(x) is None]
        small = [x for x in operands if isinstance(x, Node) and x not in large and x.meta["val"].dim() > 0]
        if large and not small and all(x in self._first for x in large):
            self._first[node] = make(*(self._first[x] if x in large else self.name(x) for x in operands))
        else:
            self._names[node] = make(*map(self.name, operands))

    def set(self, node: Node, name: str) -> None:
        """Say which ONNX value a node is."""
        self._names[node] = name

    def set_first(self, node: Node, name: str, channels_last: bool = True) -> None:
        """Say which ONNX value, channels first, a channels-last node is (another node, as it is)."""
        (self._first if channels_last else self._names)[node] = name

    def parameters(self, scale: float, zero: int) -> tuple[str, str]:
        """Scale and zero point as initialisers."""
        return self.constant(scale, name="scale"), self.constant(zero, np.int8, "zero")

    def dequantize(self, name: str, scale: float, zero: int) -> str:
        """DequantizeLinear of an int8 value."""
        return str(self.op("DequantizeLinear", name, *self.parameters(scale, zero)))

    def quantize(self, name: str, scale: float, zero: int, low: int = -128, high: int = 127) -> str:
        """QuantizeLinear, after a Clip where fewer integers are allowed."""
        if (low, high) != (-128, 127):
            limits = (self.constant((low - zero) * scale), self.constant((high - zero) * scale))
            name = self.op("Clip", name, *limits)
        return str(self.op("QuantizeLinear", name, *self.parameters(scale, zero)))

    def _new(self, name: str) -> str:
        self._count += 1
        return f"{name}_{self._count}"


Export = Callable[[Graph, Node, dict[str, Any]], None]
"""Adds to the graph what a node computes, from the node's arguments by name."""
