"""Kernels whose body is one of TVM's own operators, for what has no template here: scans, scatters,
index_put, einsum..."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import te, tirx, topi
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....errors import InvalidInput
from ..schedules import declare_serial, default_schedule, in_order
from .base import Access, Kernel, Operand

Tensors = list[Any]


def _roll(x: Any, shift: int, axis: int) -> Any:
    size = int(x.shape[axis])
    return te.compute(
        x.shape,
        lambda *i: x(*i[:axis], tirx.indexmod(i[axis] + (size - shift % size), size), *i[axis + 1 :]),
        name="roll",
    )


# name -> (input tensors, parameters) -> output tensor; operands are dense and row-major
OPERATORS: dict[str, Callable[..., Any]] = {
    "cumsum": lambda xs, axis, dtype: topi.cumsum(xs[0], axis, dtype),
    "cumprod": lambda xs, axis, dtype: topi.cumprod(xs[0], axis, dtype),
    "scatter": lambda xs, axis, reduction: topi.scatter_elements(xs[0], xs[1], xs[2], axis, reduction),
    "index": lambda xs: topi.adv_index(xs[0], xs[1:]),
    "index_put": lambda xs, accumulate: topi.index_put(xs[0], xs[1:-1], xs[-1], accumulate),
    "one_hot": lambda xs, depth, axis, dtype: topi.one_hot(
        xs[0], tirx.const(1, dtype), tirx.const(0, dtype), depth, axis, dtype
    ),
    "trilu": lambda xs, diagonal, upper: topi.trilu(xs[0], tirx.const(diagonal, "int32"), upper),
    "flip": lambda xs, axis: topi.flip(xs[0], axis),
    "roll": lambda xs, shift, axis: _roll(xs[0], shift, axis),
    "repeat": lambda xs, count, axis: topi.repeat(xs[0], count, axis),
    "tile": lambda xs, counts: topi.tile(xs[0], counts),
    "einsum": lambda xs, equation: topi.einsum(equation, *xs),
    "searchsorted": lambda xs, right, dtype: topi.searchsorted(xs[0], xs[1], right, dtype),
    "pad": lambda xs, before, after, value: topi.nn.pad(xs[0], before, after, value),
}


@dataclass(frozen=True)
class TvmOp(Kernel):
    """y = OPERATORS[op](inputs, *parameters) on dense row-major operands: (shape, dtype) of each input.

    Raises InvalidInput for an unknown operator and Unsupported shapes as TVM reports them.
    """

    name: ClassVar[str] = "tvm-op"
    op: str
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    parameters: tuple[Any, ...]
    target: CpuTarget

    def __post_init__(self) -> None:
        if self.op not in OPERATORS:
            raise InvalidInput(f"TVM operator must be one of {sorted(OPERATORS)}, not {self.op!r}")

    def _tensors(self) -> tuple[Tensors, Any]:
        placeholders = [te.placeholder(shape, dtype, name=f"x{i}") for i, (shape, dtype) in enumerate(self.inputs)]
        result = OPERATORS[self.op](placeholders, *self.parameters)
        return placeholders, result[0] if isinstance(result, (list, tuple, tvm.ir.Array)) else result

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the output."""
        return tuple(int(n) for n in self._tensors()[1].shape)

    def operands(self) -> tuple[Operand, ...]:
        inputs = [Operand(f"x{i}", dtype) for i, (_, dtype) in enumerate(self.inputs)]
        return (*inputs, Operand("y", str(self._tensors()[1].dtype), write=True))

    def describe(self) -> str:
        return f"tvm {self.op}{self.parameters}"

    def emit(self, *operands: Access) -> None:
        placeholders, result = self._tensors()
        body = default_schedule(te.create_prim_func([*placeholders, result]), self.target)
        for parameter, access in zip(body.params, operands, strict=True):
            if not isinstance(parameter.elem_offset, tirx.IntImm):  # symbolic where TVM's operator wrote its own loops
                B.add_to_parent(tirx.Bind(parameter.elem_offset, tirx.const(0, "int32")))
            B.add_to_parent(tirx.DeclBuffer(parameter, data=access.address(B.int32(0))))
        if self.op == "index_put":  # TVM shares the puts between threads, and two may meet in one element
            B.add_to_parent(in_order(body.body, "one put after the other"))
        else:
            B.add_to_parent(declare_serial(body.body, "the order of TVM's operator"))
