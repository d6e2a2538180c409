"""The text of small lowered kernels and the traffic of their accesses, so that no change of either goes unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fxpress.backends.cuda.architectures import ARCHITECTURES
from fxpress.backends.cuda.codegen import device_module
from fxpress.backends.cuda.kernels.base import CudaKernel
from fxpress.backends.cuda.kernels.epilogue import Epilogue, Matrices
from fxpress.backends.cuda.kernels.gemm import Blocking, Gemm
from fxpress.backends.cuda.kernels.pointwise import Pointwise
from fxpress.backends.cuda.kernels.reduce import Reduce
from fxpress.backends.cuda.kernels.rows import Rows
from fxpress.backends.tvm.kernels.pointwise_program import Instruction, Stream

SUM = (
    Instruction("input", (), "float16", (0,)),
    Instruction("input", (), "float16", (1,)),
    Instruction("add", (0, 1), "float16"),
)
KERNELS: dict[str, CudaKernel] = {
    "gemm": Gemm(
        10,
        20,
        40,
        "float16",
        Matrices((), 40),
        Matrices((), 40),
        Matrices((), 20, 2),
        Epilogue("float16"),
        Blocking((16, 16), (16, 16), 32, 2),
        (),
        8,
        8,
    ),
    "reduce": Reduce("sum", Rows((3,), 70, (70,)), (1,), "float32", 2),
    "pointwise": Pointwise(
        (3, 8), (Stream("float16", (8, 1)), Stream("float16", (0, 1))), (Stream("float16", (8, 1)),), SUM, (2,), 8
    ),
}
SHAPES = {"gemm": [(10, 40), (20, 40), (10, 20)], "reduce": [(3, 70), (3,)], "pointwise": [(3, 8), (8,), (3, 8)]}


@pytest.mark.parametrize("name", KERNELS)
def test_text(name: str, golden: Callable[[str], None], run_kernel: Callable[..., Any]) -> None:
    kernel = KERNELS[name]
    ((_, function),) = device_module({name: kernel}, ARCHITECTURES["sm_80"]).functions.items()
    arrays = [np.zeros(shape, op.dtype) for shape, op in zip(SHAPES[name], kernel.operands(), strict=True)]
    report = run_kernel(kernel, *arrays)
    golden(f"{function.script()}\n\n{report.text()}\n")
