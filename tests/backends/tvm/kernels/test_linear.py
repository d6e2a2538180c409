"""Linear layers against torch in float64: any shape, strided rows, residual, activation, both loop orders."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.dot import Dot
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.linear import Linear, pack
from fxpress.backends.tvm.kernels.linear_shape import LinearShape, Rows
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]
ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu, "gelu": torch.nn.functional.gelu}
SIZES = st.sampled_from([1, 2, 5, 16, 17, 31, 53, 64, 97])


def check(
    target: Target,
    shape: tuple[int, int],
    n: int,
    k: int,
    bias: bool = True,
    residual: bool = False,
    activation: str = "none",
    template: type[Linear | Dot] = Linear,
    **changes: Any,
) -> None:
    outer, inner = shape
    x_rows, y_rows = Rows((k + 3) * inner + 5, k + 3), Rows((n + 2) * inner + 1, n + 2)
    linear_shape = LinearShape(
        outer=outer, inner=inner, n=n, k=k, x=x_rows, y=y_rows,
        residual=Rows(7, outer * 7) if residual else None, bias=bias, activation=activation,
    )  # fmt: skip
    kernel = template.choose(linear_shape, target)
    kernel = dataclasses.replace(kernel, **changes)
    x_memory, y_memory = torch.full((outer * x_rows.outer,), torch.nan), torch.full((outer * y_rows.outer,), -7.0)
    x = torch.as_strided(x_memory, (outer, inner, k), (x_rows.outer, x_rows.inner, 1))
    y = torch.as_strided(y_memory, (outer, inner, n), (y_rows.outer, y_rows.inner, 1))
    x.copy_(torch.randn(x.shape))
    weight, b = torch.randn(n, k), torch.randn(n)
    residual_memory = torch.randn(7 * outer * inner + n)
    r = torch.as_strided(residual_memory, (outer, inner, n), (7, outer * 7, 1))
    arrays = [x_memory, kernel.pack(weight), *([b] * bias), *([residual_memory] * residual), y_memory]
    CompiledKernel(kernel, target)(*(array.numpy() for array in arrays))

    def reference(dtype: torch.dtype) -> torch.Tensor:
        total = x.to(dtype) @ weight.to(dtype).T + bias * b.to(dtype)
        return ACTIVATIONS[activation](total + r.to(dtype) if residual else total)

    exact = reference(torch.float64)
    norm = exact.norm().clamp(min=1e-30)
    allowed = max(2 * float((reference(torch.float32) - exact).norm() / norm), 4 * np.finfo(np.float32).eps)
    assert (y - exact).norm() / norm <= allowed
    y.fill_(-7.0)
    assert (y_memory == -7.0).all(), "wrote outside of y"


@given(st.data())
def test_any_shape(data: Any) -> None:
    check(
        data.draw(st.sampled_from(TARGETS)),
        (data.draw(st.sampled_from([1, 1, 2, 3])), data.draw(SIZES)),
        data.draw(SIZES),
        data.draw(SIZES),
        data.draw(st.booleans()),
        data.draw(st.booleans()),
        data.draw(st.sampled_from(sorted(ACTIVATIONS))),
    )


@given(st.data())
def test_few_outputs_are_dot_products(data: Any) -> None:
    check(
        data.draw(st.sampled_from(TARGETS)),
        (data.draw(st.sampled_from([1, 1, 2, 3])), data.draw(SIZES)),
        data.draw(st.integers(1, 8)),
        data.draw(st.sampled_from([1, 7, 31, 64, 200, 1280])),
        data.draw(st.booleans()),
        data.draw(st.booleans()),
        data.draw(st.sampled_from(sorted(ACTIVATIONS))),
        template=Dot,
    )


def test_dot_products_suit_few_outputs_of_deep_sums() -> None:
    assert Dot.suits(LinearShape.dense(1, 8, 64), TARGETS[1])
    assert not Dot.suits(LinearShape.dense(1, 9, 64), TARGETS[1])
    assert not Dot.suits(LinearShape.dense(1, 8, 63), TARGETS[1])
    assert not Dot.suits(LinearShape.dense(1, 5, 64), TARGETS[0])
    kernel = Dot.choose(LinearShape.dense(1, 2, 1280), TARGETS[1])
    assert kernel.describe() == "dot 2 x 1280 block=1"
    assert kernel.flops() == 2 * 2 * 1280


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("order", ["nm", "mn"])
@pytest.mark.parametrize("block", [1, 3])
def test_loop_orders_and_blocks(target: Target, order: str, block: int) -> None:
    check(target, (2, 23), 70, 40, order=order, block=block, tile_rows=5, tile_vectors=2)
    check(target, (1, 23), 70, 40, order=order, block=block, tile_rows=4, tile_vectors=3, prefetch=True)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize(("shares", "block"), [(1, 3), (2, 10), (3, 2)])
def test_depth_in_slices(target: Target, shares: int, block: int) -> None:
    tile = {"tile_rows": 5, "tile_vectors": 2, "order": "nm", "block": block, "prefetch": True}
    check(target, (2, 13), 70, 60, True, True, "gelu", slices=3, shares=shares, **tile)
    check(target, (1, 23), 97, 40, False, False, "none", slices=2, shares=shares, **tile)


def test_nan_and_infinity_flow() -> None:
    for target in TARGETS:
        kernel = Linear.choose(LinearShape.dense(3, 20, 8, activation="relu"), target)
        x, weight = torch.randn(3, 8), torch.randn(20, 8)
        x[0, 2], x[1, 5] = torch.nan, torch.inf
        y = np.zeros((3, 20), np.float32)
        CompiledKernel(kernel, target)(x.numpy(), kernel.pack(weight).numpy(), y)
        expected = torch.relu(x @ weight.T).numpy()
        np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(y), np.isinf(expected))


def test_packed_index_arithmetic() -> None:
    weight, width = torch.arange(35.0).reshape(7, 5), 4
    flat = pack(weight, width).flatten()
    for n in range(7):
        for k in range(5):
            assert flat[((n // width) * 5 + k) * width + n % width] == weight[n, k]
    assert flat.numel() == 40


def test_choice_for_transformer_layers() -> None:
    wide = Target.parse("cpu{isa=avx512,cores=2,l2=2097152}")
    narrow = Target.parse("cpu{isa=avx2,cores=2,l2=1048576}")
    tile = Linear.choose(LinearShape.dense(128, 768, 768), wide)
    assert tile.tile_rows * tile.tile_vectors >= 24
    assert tile.order == "nm"
    small = Linear.choose(LinearShape.dense(128, 768, 768), narrow)
    assert small.tile_rows * small.tile_vectors + small.tile_vectors < 16
    assert Linear.choose(LinearShape.dense(4096, 64, 64), wide).order == "mn"
    assert Linear.choose(LinearShape.dense(1, 1024, 4096), wide).tile_vectors >= 6, (
        "a single row needs many accumulators"
    )
    eight_ways = Target.parse("cpu{isa=avx512,l1=32768}")
    assert Linear.choose(LinearShape.dense(128, 768, 1024), eight_ways).tile_rows <= 8, (
        "rows 4 KiB apart share a cache set"
    )
    deep = Linear.choose(LinearShape.dense(128, 768, 3072), wide)
    assert (deep.slices, deep.shares) == (2, 2), "half of L2 holds half of each row"
    assert Linear.choose(LinearShape.dense(128, 768, 3079), wide).slices == 1, "no equal parts"
