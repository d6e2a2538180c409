"""Attention against torch's scaled_dot_product_attention in float64: views, masks, causal, grouped queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.attention import Attention, Heads, Mask
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.numerics import compare_outputs
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]
sdpa = torch.nn.functional.scaled_dot_product_attention


def heads(x: torch.Tensor) -> Heads:
    return Heads(*x.stride()[:3])


def run(
    target: Target, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """The kernel on [batch, head, row, column] views; the output is laid out [batch, row, head, column]."""
    batch, count, queries, depth = q.shape
    layout = None
    if mask is not None:
        kind = "bool" if mask.dtype == torch.bool else "float32"
        strides = mask.expand(batch, count, queries, k.shape[2]).stride()
        layout = Mask(kind, *strides, period=batch, fill=options.pop("fill", None))
    y = torch.full((batch, queries, count, v.shape[3]), torch.nan).transpose(1, 2)
    kernel = Attention.choose(
        batch=batch, heads=count, kv_heads=k.shape[1], queries=queries, keys=k.shape[2], depth=depth,
        value_depth=v.shape[3], target=target, q=heads(q), k=heads(k), v=heads(v), y=heads(y), mask=layout, **options,
    )  # fmt: skip
    arrays = [q, k, v, *([] if mask is None else [mask]), y.transpose(1, 2)]
    CompiledKernel(kernel, target)(*(array.numpy() for array in arrays))
    return y


def check(
    target: Target, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, **options: Any
) -> None:
    ours = run(target, q, k, v, mask, **options)
    arguments = {"is_causal": options.get("causal", False), "scale": options.get("scale")}
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    exact_mask = mask if mask is None or mask.dtype == torch.bool else mask.double()
    exact = sdpa(q.double(), k.double(), v.double(), exact_mask, **arguments)
    single = sdpa(q, k, v, mask, **arguments)
    assert torch.equal(ours.isnan(), exact.isnan())
    norm = exact.nan_to_num().norm().clamp(min=1e-30)
    error, theirs = ((y - exact).nan_to_num().norm() / norm for y in (ours, single))
    assert error <= max(2 * float(theirs), 4 * np.finfo(np.float32).eps)


@given(st.data())
def test_any_shape(data: Any) -> None:
    sizes = st.sampled_from([1, 3, 16, 17, 40, 50])
    batch, kv_heads, groups = (data.draw(st.sampled_from([1, 2])) for _ in range(3))
    queries, keys, depth, value_depth = (data.draw(sizes) for _ in range(4))
    q = torch.randn(batch, queries, kv_heads * groups, depth).transpose(1, 2)
    k = torch.randn(batch, keys, kv_heads, depth).transpose(1, 2)
    v = torch.randn(batch, keys, kv_heads, value_depth).transpose(1, 2)
    check(data.draw(st.sampled_from(TARGETS)), q, k, v, causal=data.draw(st.booleans()), scale=0.7)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("shape", [(2, 1, 1, 21), (1, 3, 19, 21), (2, 1, 19, 1), (19, 21)], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.bool], ids=str)
def test_masks_broadcast(target: Target, shape: tuple[int, ...], kind: torch.dtype) -> None:
    q, k, v = torch.randn(2, 3, 19, 8), torch.randn(2, 3, 21, 8), torch.randn(2, 3, 21, 8)
    check(target, q, k, v, torch.randn(shape) if kind == torch.float32 else torch.rand(shape) > 0.4)


def test_mask_with_dense_queries() -> None:
    q = torch.randn(1, 2, 37, 8)
    for target in TARGETS:
        check(target, q, q, q, torch.randn(2, 37, 37).transpose(1, 2))
        check(target, q, q, q, torch.rand(37, 37).T > 0.3)


def test_slices_of_a_merged_projection() -> None:
    q, k, v = torch.randn(2, 33, 3, 4, 16).permute(2, 0, 3, 1, 4)
    for target in TARGETS:
        check(target, q, k, v)


def test_hidden_rows_and_nan() -> None:
    q = torch.randn(1, 2, 20, 16)
    mask = torch.zeros(20, 20)
    mask[3], mask[4], mask[5, 7] = -torch.inf, torch.finfo(torch.float32).min, torch.nan
    for target in TARGETS:
        check(target, q, q, q, mask)
        check(target, q, q, q, mask > -1)
        assert (run(target, q, q, q, mask)[:, :, 3] == 0).all()


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("shape", [(2, 1, 1, 21), (1, 3, 19, 21), (2, 1, 19, 1)], ids=str)
@pytest.mark.parametrize("fill", [None, -1e9, -2.0, -torch.inf])
def test_strict_attention_is_softmax(target: Target, shape: tuple[int, ...], fill: float | None) -> None:
    q, k, v = torch.randn(2, 3, 19, 8), torch.randn(2, 3, 21, 8), torch.randn(2, 3, 21, 8)
    mask = torch.where(torch.rand(shape) > 0.7, -torch.inf, torch.randn(shape))
    mask[..., 0, :] = -torch.inf  # a query without keys
    mask = mask if fill is None else mask.isfinite()
    ours = run(target, q, k, v, mask, strict=True, fill=fill, scale=0.3)
    exact, single = (
        torch.ops.fxpress.attention(*(x.to(dtype) for x in (q, k, v)), mask, fill, 0.3, False)
        for dtype in (torch.float64, torch.float32)
    )
    assert compare_outputs([ours], [single], [exact]).acceptable


def test_mask_repeats_over_the_batch() -> None:
    q, mask = torch.randn(6, 2, 9, 8), torch.randn(3, 1, 9, 9)
    y = torch.full((6, 2, 9, 8), torch.nan)
    for target in TARGETS:
        layout = Mask("float32", batch=81, head=0, query=9, key=1, period=3)
        kernel = Attention.choose(batch=6, heads=2, queries=9, keys=9, depth=8, target=target, mask=layout)
        CompiledKernel(kernel, target)(q.numpy(), q.numpy(), q.numpy(), mask.numpy(), y.numpy())
        torch.testing.assert_close(y, sdpa(q, q, q, mask.repeat(2, 1, 1, 1)), rtol=1e-5, atol=1e-5)


def test_thousands_of_keys() -> None:
    q, k = torch.randn(1, 1, 20, 32), torch.randn(1, 1, 3001, 32)
    for target in TARGETS:
        check(target, q, k, k)
