"""Quantised Programs node by node, without a float model: int8 in, any quantised ops, int8 out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fxpress.ops import fxpress
from fxpress.program import Program
from fxpress.rewriter import Rewriter
from fxpress.runtime.signature import Signature
from fxpress.runtime.structure import Structure
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten


class Builder:
    """Makes a Program: `input`, ops by name, `program(*results)`. Scales are drawn from `seed`."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        graph = Graph()
        self._output = graph.output(())
        self._inputs: list[Node] = []
        module = GraphModule(torch.nn.Module(), graph)
        empty = Structure.of({}, lambda _: False)[0]
        nothing = Structure.of((), lambda _: False)[0]
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._program = Program(module, Signature((), nothing, empty), nothing, ())
        self._program.fake_mode = self._mode
        self.rw = Rewriter(self._program)
        self.at = self._program.output_node

    def input(self, *shape: int, dtype: torch.dtype = torch.int8) -> Node:
        graph = self._program.graph
        first = next(n for n in graph.nodes if n.op != "placeholder")
        with graph.inserting_before(first):
            node = graph.placeholder(f"x{len(self._inputs)}")
        node.meta["val"] = self._mode.from_tensor(torch.zeros(shape, dtype=dtype), static_shapes=True)
        self._inputs.append(node)
        return node

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Node:
        return self.rw.call(op, *args, at=self.at, **kwargs)

    def constant(self, name: str, values: Any, dtype: torch.dtype) -> Node:
        return self.rw.constant(name, torch.as_tensor(values).to(dtype))

    def scale(self) -> float:
        return float(self.random.uniform(0.01, 0.1))

    def zero(self) -> int:
        return int(self.random.integers(-128, 128))

    def conv(
        self,
        x: Node,
        oc: int,
        kernel: Sequence[int],
        *,
        stride: Sequence[int] = (),
        padding: Sequence[int] = (),
        dilation: Sequence[int] = (),
        groups: int = 1,
        residual: Node | None = None,
        channels_last: bool = True,
        as_float: bool = False,
        mode: str = "I",
    ) -> Node:
        rank = len(kernel)
        ic = x.meta["val"].shape[-1 if channels_last else 1]
        weight = self.random.integers(-127, 128, (oc, ic // groups, *kernel), np.int8)
        stride, dilation = list(stride or [1] * rank), list(dilation or [1] * rank)
        padding = list(padding or [0] * 2 * rank)
        constants = self._constants(weight)
        terms = int(np.prod(weight.shape[1:]))
        if as_float:
            rest = (self.scale(), self.zero(), stride, padding, dilation, groups, "relu", channels_last)
            return self.call(fxpress.quantized_conv_float.default, x, *constants[:2], residual, constants[2], *rest)
        scales = (0.05, self.zero(), self.scale(), self.zero(), 0.02 * terms**0.5, self.zero(), -128, 127)
        rest = (*scales, stride, padding, dilation, groups, mode, channels_last)
        return self.call(fxpress.quantized_conv.default, x, *constants[:2], residual, constants[2], *rest)

    def linear(self, x: Node, oc: int, *, residual: Node | None = None, as_float: bool = False) -> Node:
        ic = x.meta["val"].shape[-1]
        constants = self._constants(self.random.integers(-127, 128, (oc, ic), np.int8))
        if as_float:
            rest = (self.scale(), self.zero(), "none")
            return self.call(fxpress.quantized_linear_float.default, x, *constants[:2], residual, constants[2], *rest)
        scales = (0.05, self.zero(), self.scale(), self.zero(), 0.02 * ic**0.5, self.zero(), -128, 120, "I")
        return self.call(fxpress.quantized_linear.default, x, *constants[:2], residual, constants[2], *scales)

    def matmul(self, a: Node, b: Node, *, zeros: Sequence[int] = (0, 0), as_float: bool = False) -> Node:
        operands = (a, b, 0.03, zeros[0], 0.04, zeros[1])
        if as_float:
            return self.call(fxpress.quantized_matmul_float.default, *operands)
        depth = a.meta["val"].shape[-1]
        return self.call(fxpress.quantized_matmul.default, *operands, 0.1 * depth**0.5, self.zero(), -128, 127, "I")

    def add(self, a: Node, b: Node) -> Node:
        scales = (self.scale(), self.zero(), self.scale(), self.zero(), self.scale(), self.zero(), -100, 127, "I")
        return self.call(fxpress.quantized_add.default, a, b, *scales)

    def requantize(self, x: Node) -> Node:
        rest = (self.scale(), self.zero(), self.scale(), self.zero(), -128, 127, "I")
        return self.call(fxpress.requantize.default, x, *rest)

    def lookup(self, x: Node) -> Node:
        return self.call(
            fxpress.lookup.default, x, self.constant("table", self.random.integers(-128, 128, 256), torch.int8)
        )

    def max_pool(
        self, x: Node, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], *, last: bool = True
    ) -> Node:
        ones = [1] * len(kernel)
        args = (list(kernel), list(stride), list(padding), ones, False, last)
        return self.call(fxpress.quantized_max_pool.default, x, *args)

    def avg_pool(
        self, x: Node, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], *, last: bool = True
    ) -> Node:
        scales = (self.scale(), self.zero(), self.scale(), self.zero(), -128, 127, "I", last)
        args = (list(kernel), list(stride), list(padding), False, *scales)
        return self.call(fxpress.quantized_avg_pool.default, x, *args)

    def program(self, *results: Node) -> Program:
        self.rw.output(*results)
        self.rw.finish()
        names = tuple(node.name for node in self._inputs)
        examples = [self.example(node) for node in self._inputs]
        arguments = Structure.of(tuple(names), lambda x: isinstance(x, str))[0]
        outputs = Structure.of(tuple(n.name for n in results), lambda x: isinstance(x, str))[0]
        empty = Structure.of({}, lambda _: False)[0]
        return Program(self._program.graph_module, Signature(names, arguments, empty), outputs, examples)

    def example(self, node: Node) -> Tensor:
        value = node.meta["val"]
        if value.dtype.is_floating_point:
            return torch.from_numpy(self.random.normal(size=tuple(value.shape)).astype(np.float32))
        return torch.from_numpy(self.random.integers(-128, 128, tuple(value.shape)).astype(np.int8))

    def _constants(self, weight: Any) -> tuple[Node, Node, Node]:
        oc = weight.shape[0]
        return (
            self.constant("weight", weight, torch.int8),
            self.constant("bias", self.random.integers(-5000, 5000, oc), torch.int32),
            self.constant("weight_scale", self.random.uniform(0.002, 0.01, oc), torch.float32),
        )
