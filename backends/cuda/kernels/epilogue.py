"""What happens to sums before they are stored: bias, residual, activation, rounding to the result's dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...tvm.kernels import vmath
from ...tvm.kernels.base import Expr, Operand
from ...tvm.views import ITEM_SIZES
from .base import Memory, local, when


@dataclass(frozen=True)
class Matrices:
    """Where a batch of matrices lies, in elements: a stride for each batch dimension, then one for rows.

    The elements of a row are dense. `aligned` says how many elements divide the first address of all rows.
    """

    batch: tuple[int, ...]
    row: int
    aligned: int = 1


@dataclass(frozen=True)
class Epilogue:
    """activation(sum + bias + residual) as `dtype`. `bias` and `residual_dtype` are dtypes; the bias has an element a
    column. Sums are float32, or int32 where the result is."""

    dtype: str
    bias: str | None = None
    residual: Matrices | None = None
    residual_dtype: str = "float32"
    activation: str = "none"

    def operands(self) -> tuple[Operand, ...]:
        """What is read besides the factors, and the result."""
        bias = [] if self.bias is None else [Operand("bias", self.bias)]
        residual = [] if self.residual is None else [Operand("residual", self.residual_dtype)]
        return (*bias, *residual, Operand("y", self.dtype, write=True))

    def width(self, y: Matrices, n: int, most: int) -> int:
        """How many adjacent columns can be read and stored at once, a power of 2 up to `most`."""
        width = most
        matrices = [y] if self.residual is None else [y, self.residual]
        while width > 1 and (n % width or any(matrix.aligned % width for matrix in matrices)):
            width //= 2
        return width

    def store(
        self,
        operands: Sequence[Memory],
        y: Matrices,
        at: tuple[Expr, Expr, Expr],
        column: tuple[Expr, Expr],
        values: Sequence[Expr],
        inside: Expr,
    ) -> None:
        """Store sums of adjacent columns of one row where `inside` holds.

        `at` is the offset of the batch in the residual, that in y (multiples of the width), and the row. `column` is
        the first column's number in vectors as wide as there are values, and in elements.
        """
        when(inside, lambda: self._store(operands, y, at, column, values))

    def _store(
        self,
        operands: Sequence[Memory],
        y: Matrices,
        at: tuple[Expr, Expr, Expr],
        column: tuple[Expr, Expr],
        values: Sequence[Expr],
    ) -> None:
        width, (residual_start, start, row), (vector, first) = len(values), at, column
        rest = list(operands)
        bias = rest.pop(0) if self.bias is not None else None
        residual = rest.pop(0) if self.residual is not None else None
        added = None
        if residual is not None:
            assert self.residual is not None
            added = local(width, self.residual_dtype)
            number = residual_start // width + row * (self.residual.row // width) + vector
            added.set_vector(0, width, residual.vector(number, width))
        out = local(width, self.dtype)
        for i, total in enumerate(values):
            out[i] = self._finish(total, None if bias is None else bias[first + i], None if added is None else added[i])
        rest[0].set_vector(start // width + row * (y.row // width) + vector, width, out.vector(0, width))

    def _finish(self, value: Expr, bias: Expr | None, residual: Expr | None) -> Expr:
        if vmath.element_of(value) == "int32":
            return value if bias is None else value + bias
        for term in (bias, residual):
            if term is not None:
                value = value + vmath.to_float32(term)
        if self.activation != "none":
            value = vmath.activate(self.activation, vmath.hold(value), 1)
        return vmath.from_float32(vmath.hold(value), self.dtype)


def item_size(dtype: str) -> int:
    """Bytes of an element; tf32 lies in memory as float32."""
    return ITEM_SIZES["float32" if dtype == "tf32" else dtype]
