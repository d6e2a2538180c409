"""Quantised arithmetic on vectors of any length: what elementwise kernels and pools do with 8-bit integers.

Bit for bit what ops/quantized.py defines. Factors and zero points are constants of the code here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from ....ops.requantization import HIGHEST, LOWEST, multiplier_of, shift_of
from .base import Expr
from .requantization import fence
from .vmath import constant, convert, hold, lanes_of, select, vector_type


def quantize(x: Expr, scale: float, zero: int) -> Expr:
    """A float32 vector as int8; NaN becomes -128."""
    inverse = (1 / torch.tensor(scale, dtype=torch.float64)).to(torch.float32).item()
    lanes = lanes_of(x)
    product = hold(x * constant(inverse, "float32", lanes))
    low = constant(float(LOWEST - zero), "float32", lanes)
    product = hold(select(product > low, product, low))  # false for NaN
    return _integer(product, zero, HIGHEST)


def dequantize(x: Expr, scale: float, zero: int) -> Expr:
    """A float32 vector of integers as the numbers that they stand for."""
    factor = torch.tensor(scale, dtype=torch.float64).to(torch.float32).item()
    lanes = lanes_of(x)
    return fence((x - constant(float(zero), "float32", lanes)) * constant(factor, "float32", lanes))


def requantize(terms: Sequence[tuple[Expr, float]], zero: int, low: int, high: int, mode: str) -> Expr:
    """The sum of int32 vectors times their real factors as int32 in low..high, zero point added."""
    lanes = lanes_of(terms[0][0])
    if mode == "F":
        total: Expr = None
        for value, factor in terms:
            single = torch.tensor(factor, dtype=torch.float64).to(torch.float32).item()
            product = fence(convert(value, "float32") * constant(single, "float32", lanes))
            total = product if total is None else total + product
        total = hold(B.max(total, constant(float(low - zero), "float32", lanes)))
        return convert(_integer(total, zero, high), "int32")
    factors = torch.tensor([factor for _, factor in terms], dtype=torch.float64)
    shift = shift_of(factors.max())
    total = constant(1 << (int(shift) - 1), "int64", lanes)
    for value, factor in zip((value for value, _ in terms), factors, strict=True):
        total = total + convert(value, "int64") * constant(int(multiplier_of(factor, shift)), "int64", lanes)
    total = hold((total >> constant(int(shift), "int64", lanes)) + constant(zero, "int64", lanes))
    return convert(B.min(B.max(total, constant(low, "int64", lanes)), constant(high, "int64", lanes)), "int32")


def _integer(x: Expr, zero: int, high: int) -> Expr:
    """A float32 vector, large enough already, limited to high - zero, rounded half to even, plus zero; as int8."""
    lanes = lanes_of(x)
    x = B.min(x, constant(float(high - zero), "float32", lanes))
    name = "llvm.lrint.i32.f32" if lanes == 1 else f"llvm.lrint.v{lanes}i32.v{lanes}f32"
    integer = tirx.call_llvm_pure_intrin(vector_type("int32", lanes), name, x)
    return convert(hold(integer + constant(zero, "int32", lanes)), "int8")
