"""What every linear kernel has in common: the arithmetic, where its rows lie, and the epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script import builder as B

from .base import Access, Expr, Operand
from .vmath import activate


@dataclass(frozen=True)
class Rows:
    """Where the rows of a matrix lie: row (o, i) starts `o * outer + i * inner` elements on; columns are dense."""

    outer: int
    inner: int


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """A float32 linear layer: y[m, n] = activation(x[m, k] @ W^T + bias + residual) for m = outer * inner rows.

    Without `residual` there is no residual operand.
    """

    outer: int
    inner: int
    n: int
    k: int
    x: Rows
    y: Rows
    residual: Rows | None = None
    bias: bool = False
    activation: str = "none"

    @classmethod
    def dense(cls, m: int, n: int, k: int, *, bias: bool = False, activation: str = "none") -> LinearShape:
        """`m` rows, one after another in x and in y."""
        x, y = Rows(m * k, k), Rows(m * n, n)
        return cls(outer=1, inner=m, n=n, k=k, x=x, y=y, bias=bias, activation=activation)

    @property
    def m(self) -> int:
        """All rows."""
        return self.outer * self.inner

    @property
    def flops(self) -> int:
        """Multiply-adds, each counted as two."""
        return 2 * self.m * self.n * self.k

    def operands(self) -> tuple[Operand, ...]:
        """x, weight, bias if there is one, residual if there is one, y."""
        names = ["x", "weight"] + ["bias"] * self.bias + ["residual"] * (self.residual is not None)
        return (*(Operand(name, "float32") for name in names), Operand("y", "float32", write=True))

    def named(self, operands: Sequence[Access]) -> dict[str, Access]:
        """The operands by name."""
        return dict(zip((op.name for op in self.operands()), operands, strict=True))

    def activate(self, value: Expr, lanes: int) -> Expr:
        """The layer's activation of a vector."""
        return value if self.activation == "none" else activate(self.activation, B.bind(value), lanes)
