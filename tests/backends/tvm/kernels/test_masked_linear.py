"""Linear layers that read a mask and what is not zero of their weight, against torch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.base import Call, run_module
from fxpress.backends.tvm.kernels.harness import CompiledKernel, build
from fxpress.backends.tvm.kernels.linear_shape import LinearShape, Rows
from fxpress.backends.tvm.kernels.masked_linear import MaskedLinear
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = {isa: Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")}


def check(isa: str, rows: tuple[int, int], n: int, k: int, held: torch.Tensor, **options: Any) -> MaskedLinear:
    outer, inner = rows
    bias, residual = options.get("bias", True), options.get("residual", False)
    shape = LinearShape(
        outer=outer, inner=inner, n=n, k=k, x=Rows((k + 3) * inner, k + 3), y=Rows((n + 2) * inner, n + 2),
        residual=Rows(n * inner, n) if residual else None, bias=bias, activation="relu",
    )  # fmt: skip
    kernel = MaskedLinear.choose_masked(shape, TARGETS[isa])
    weight, b, r = torch.randn(n, k) * held, torch.randn(n), torch.randn(outer * inner, n)
    x, y = torch.full((outer * inner, k + 3), torch.nan), torch.full((outer * inner, n + 2), -7.0)
    x[:, :k] = torch.randn(outer * inner, k)
    arrays = [x, *kernel.pack_sparse(weight), *([b] * bias), *([r] * residual), y]
    CompiledKernel(kernel, TARGETS[isa])(*(array.numpy() for array in arrays))

    def reference(dtype: torch.dtype) -> torch.Tensor:
        total = x[:, :k].to(dtype) @ weight.to(dtype).T + bias * b.to(dtype)
        return torch.relu(total + r.to(dtype) if residual else total)

    exact = reference(torch.float64)
    norm = exact.norm().clamp(min=1e-30)
    allowed = max(2 * float((reference(torch.float32) - exact).norm() / norm), 4 * np.finfo(np.float32).eps)
    assert (y[:, :n] - exact).norm() / norm <= allowed
    assert (y[:, n:] == -7.0).all(), "wrote outside of y"
    return kernel


@given(st.data())
def test_any_shape(data: Any) -> None:
    n, k = data.draw(st.sampled_from([1, 5, 16, 17, 64, 97])), data.draw(st.sampled_from([1, 3, 64, 101]))
    held = torch.rand(n, k) < data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    rows = data.draw(st.sampled_from([(1, 1), (1, 2), (3, 1), (1, 5), (2, 4), (1, 8)]))
    isa = data.draw(st.sampled_from(sorted(TARGETS)))
    check(isa, rows, n, k, held, bias=data.draw(st.booleans()), residual=data.draw(st.booleans()))


@pytest.mark.parametrize("isa", TARGETS)
def test_two_of_four(isa: str) -> None:
    held = torch.rand(70, 25, 4).argsort(-1) < 2
    kernel = check(isa, (1, 1), 70, 100, held.flatten(1))
    values, mask, *_ = kernel.pack_sparse(torch.ones(70, 100) * held.flatten(1))
    assert len(values) == 70 * 100 // 2 + kernel.lanes
    assert mask.numel() * mask.element_size() == -(-70 // kernel.width) * kernel.width * 100 / 8


@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("rows", [1, 8])
def test_long_sums(isa: str, rows: int) -> None:
    check(isa, (1, rows), 20, 4099, torch.rand(20, 4099) < 0.5)


def test_a_row_and_a_step_may_be_empty() -> None:
    held = torch.rand(40, 30) < 0.5
    held[3], held[:, 7], held[32:] = False, False, False
    for isa in TARGETS:
        check(isa, (1, 2), 40, 30, held)


@pytest.mark.parametrize(("isa", "instruction"), [("avx2", "vperm"), ("avx512", "vexpandps")])
def test_values_are_expanded_by_one_instruction(isa: str, instruction: str) -> None:
    kernel = MaskedLinear.choose_masked(LinearShape.dense(1, 64, 64), TARGETS[isa])
    call = Call(kernel, tuple((i, 0) for i in range(len(kernel.operands()))))
    code = build(run_module([call], len(kernel.operands())), TARGETS[isa]).mod.inspect_source("s")
    assert code.count(instruction) >= 4 * kernel.tile_vectors
    assert "popcnt" in code
