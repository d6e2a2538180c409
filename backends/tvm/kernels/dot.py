"""Linear layers with a few outputs only: each is a dot product, summed along the vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Kernel, Operand
from .gemm import part, tasks
from .linear_shape import LinearShape, Rows
from .sums import sum_of


@dataclass(frozen=True, kw_only=True)
class Dot(Kernel):
    """A linear layer with a small n, for which `Linear` would leave most lanes idle and add k products in a row.

    Operands: those of the shape, the weight [n, k] dense. A task is `block` rows.
    """

    name: ClassVar[str] = "dot"

    shape: LinearShape
    lanes: int
    block: int

    @classmethod
    def suits(cls, shape: LinearShape, target: CpuTarget) -> bool:
        """Whether so few outputs are better computed one by one."""
        return 2 * shape.n <= target.vector.lanes and shape.k >= 4 * target.vector.lanes

    @classmethod
    def choose(cls, shape: LinearShape, target: CpuTarget) -> Dot:
        """The kernel for `target`: a few tasks a core."""
        return cls(shape=shape, lanes=target.vector.lanes, block=-(-shape.m // (4 * target.cores)))

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """The form of `weight` [n, k] that this kernel reads: itself."""
        return weight

    def operands(self) -> tuple[Operand, ...]:
        return self.shape.operands()

    def flops(self) -> int:
        return self.shape.flops

    def describe(self) -> str:
        return f"dot {self.shape.n} x {self.shape.k} block={self.block}"

    def emit(self, *operands: Access) -> None:
        rows = self.shape.m
        with tasks(-(-rows // self.block), self.flops()) as task:
            first = B.bind(task * self.block)

            def run(count: int) -> None:
                with B.serial(count) as step:
                    self._row(operands, B.bind(first + step))

            part(task, rows, self.block, run)

    def _row(self, operands: tuple[Access, ...], row: Expr) -> None:
        shape, named = self.shape, self.shape.named(operands)
        outer, inner = B.bind(row // shape.inner), B.bind(row % shape.inner)

        def at(name: str, where: Rows) -> Access:
            return named[name].shifted(outer * where.outer + inner * where.inner)

        x, y = at("x", shape.x), at("y", shape.y)
        residual = at("residual", shape.residual) if shape.residual else None
        for j in range(shape.n):
            weight = named["weight"].shifted(j * shape.k)

            def product(start: Expr, lanes: int, weight: Access = weight) -> Expr:
                return x.load(start, lanes) * weight.load(start, lanes)

            value = sum_of(shape.k, self.lanes, product)
            if shape.bias:
                value = value + named["bias"].load(B.int32(j))
            if residual is not None:
                value = value + residual.load(B.int32(j))
            y.store(B.int32(j), shape.activate(value, 1))
