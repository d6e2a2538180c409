"""TVM's operators as kernels: right numbers from unaligned memory, and no loop nest left unscheduled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.base import B, Call, Kernel, Operand, run_module
from fxpress.backends.tvm.kernels.group_norm import group_norm_kernel
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.norm import layer_norm_kernel
from fxpress.backends.tvm.kernels.pointwise import copy_kernel
from fxpress.backends.tvm.kernels.softmax import softmax_kernel
from fxpress.backends.tvm.kernels.tvm_op import OPERATORS, TvmOp
from fxpress.backends.tvm.schedules import unscheduled_loops
from fxpress.errors import InvalidInput
from fxpress.target import Target

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]
X = torch.randn(6, 40)
IDS = torch.tensor([3, 0, 5, 3])

# operator -> [(inputs, parameters, the same in PyTorch)]
CASES: dict[str, tuple[list[torch.Tensor], tuple[Any, ...], Callable[..., torch.Tensor]]] = {
    "cumsum": ([X], (1, "float32"), lambda x: x.cumsum(1)),
    "cumprod": ([X], (0, "float32"), lambda x: x.cumprod(0)),
    "scatter": (
        [X, torch.randint(0, 40, (6, 8)), torch.randn(6, 8)],
        (1, "add"),
        lambda x, ids, y: x.scatter_add(1, ids, y),
    ),
    "index": ([X, IDS, IDS + 1], (), lambda x, i, j: x[i, j]),
    "index_put": (
        [X, IDS, IDS + 1, torch.randn(4)],
        (True,),
        lambda x, i, j, y: x.index_put((i, j), y, accumulate=True),
    ),
    "one_hot": ([IDS], (7, -1, "float32"), lambda i: torch.nn.functional.one_hot(i, 7).float()),
    "trilu": ([X], (1, True), lambda x: x.triu(1)),
    "flip": ([X], (1,), lambda x: x.flip(1)),
    "roll": ([X], (3, 1), lambda x: x.roll(3, 1)),
    "repeat": ([X], (2, 1), lambda x: x.repeat_interleave(2, 1)),
    "tile": ([X], ((2, 2),), lambda x: x.repeat(2, 2)),
    "einsum": ([torch.randn(4, 5, 6), torch.randn(4, 6, 32)], ("bij,bjk->bik",), torch.bmm),
    "searchsorted": (
        [torch.arange(9.0), torch.randn(5)],
        (False, "int64"),
        torch.searchsorted,
    ),
    "pad": ([X], ((1, 2), (0, 3), 0.5), lambda x: torch.nn.functional.pad(x, (2, 3, 1, 0), value=0.5)),
}


def kernel_of(op: str, target: Target) -> TvmOp:
    inputs, parameters, _ = CASES[op]
    signature = tuple((tuple(x.shape), str(x.dtype).removeprefix("torch.")) for x in inputs)
    return TvmOp(op, signature, parameters, target)


def unaligned(array: np.ndarray) -> np.ndarray:
    """A copy whose data starts one element after a 64-byte boundary."""
    raw = np.zeros(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + array.itemsize
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("op", CASES)
def test_operator(op: str, target: Target) -> None:
    inputs, _, reference = CASES[op]
    expected = reference(*inputs)
    kernel = kernel_of(op, target)
    assert kernel.out_shape == tuple(expected.shape)
    out = unaligned(np.zeros(expected.shape, expected.numpy().dtype))
    CompiledKernel(kernel, target)(*(unaligned(x.numpy()) for x in inputs), out)
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-5, atol=1e-5)


def module_of(kernel: Kernel) -> Any:
    count = len(kernel.operands())
    return run_module([Call(kernel, tuple((i, 0) for i in range(count)))], count)


@pytest.mark.parametrize("op", CASES)
def test_no_operator_is_left_unscheduled(op: str) -> None:
    assert unscheduled_loops(module_of(kernel_of(op, TARGETS[1]))) == []


def test_our_kernels_are_scheduled() -> None:
    target = TARGETS[1]
    for kernel in (
        layer_norm_kernel((128, 768), 1, (768, 1), (768, 1), 1e-5, target),
        group_norm_kernel((1, 64, 9), 4, (576, 9, 1), (576, 9, 1), 1e-5, target),
        softmax_kernel((128, 128), 1, (128, 1), (128, 1), target),
        copy_kernel((64, 64), "float32", (1, 64), (64, 1), target),
    ):
        assert unscheduled_loops(module_of(kernel)) == []


def test_an_unscheduled_loop_is_named() -> None:
    class Forgotten(Kernel):
        name = "forgotten"

        def operands(self) -> tuple[Operand, ...]:
            return (Operand("y", "float32", write=True),)

        def emit(self, *operands: Any) -> None:
            with B.serial(9) as i:
                operands[0].store(i, B.float32(1))

    (found,) = unscheduled_loops(module_of(Forgotten()))
    assert found.startswith("k0_forgotten: for ")
    assert found.endswith(" of 9")


def test_every_operator_is_tested_and_errors() -> None:
    assert set(CASES) == set(OPERATORS)
    with pytest.raises(InvalidInput, match=r"^TVM operator must be one of \[.*\], not 'fft'$"):
        TvmOp("fft", (), (), TARGETS[0])
