"""Reductions against PyTorch over any dimensions of any view, judged in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.reduce import REDUCTIONS, reduce_kernel
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]
Dims = tuple[int, ...]


def _prod(x: torch.Tensor, dims: Dims) -> torch.Tensor:
    for d in sorted(dims, reverse=True):
        x = x.prod(d)
    return x


def _arg(function: Callable[..., torch.Tensor]) -> Callable[[torch.Tensor, Dims], torch.Tensor]:
    def apply(x: torch.Tensor, dims: Dims) -> torch.Tensor:
        kept = [d for d in range(x.dim()) if d not in dims]
        x = x.permute([*kept, *sorted(dims)])
        return function(x.reshape([*x.shape[: len(kept)], -1]), -1)

    return apply


REFERENCE: dict[str, Callable[[torch.Tensor, Dims], torch.Tensor]] = {
    "sum": lambda x, d: x.sum(d),
    "mean": lambda x, d: x.mean(d),
    "prod": _prod,
    "max": lambda x, d: x.amax(d),
    "min": lambda x, d: x.amin(d),
    "any": lambda x, d: x.bool().any(d) if len(d) == 1 else x.bool().float().amax(d).bool(),
    "all": lambda x, d: x.bool().float().amin(d).bool(),
    "sum_abs": lambda x, d: x.abs().sum(d),
    "sum_square": lambda x, d: (x * x).sum(d),
    "norm1": lambda x, d: torch.linalg.vector_norm(x, 1, d),
    "norm2": lambda x, d: torch.linalg.vector_norm(x, 2, d),
    "norm_inf": lambda x, d: torch.linalg.vector_norm(x, float("inf"), d),
    "var": lambda x, d: x.var(d),
    "std": lambda x, d: x.std(d),
    "logsumexp": lambda x, d: x.logsumexp(d),
    "argmax": _arg(torch.argmax),
    "argmin": _arg(torch.argmin),
}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def reduce(op: str, x: torch.Tensor, dims: Dims, out: torch.Tensor, target: Target) -> torch.Tensor:
    kernel = reduce_kernel(op, x.shape, dims, x.stride(), out.stride(), name_of(x.dtype), name_of(out.dtype), target)
    CompiledKernel(kernel, target)(x.numpy(), out.numpy())
    return out


def check(op: str, x: torch.Tensor, dims: Dims, target: Target) -> None:
    x = x / 2 if op == "prod" and x.is_floating_point() else x  # away from overflow
    theirs, exact = REFERENCE[op](x, dims), REFERENCE[op](x.double(), dims)
    ours = reduce(op, x, dims, torch.zeros(theirs.shape, dtype=theirs.dtype), target)
    if not theirs.is_floating_point():
        assert torch.equal(ours, theirs)
        return
    torch.testing.assert_close(ours.isnan(), theirs.isnan())
    norm = exact.nan_to_num().norm().clamp(min=1e-30)
    error = (ours - exact).nan_to_num().norm() / norm
    allowed = max(2 * float((theirs - exact).nan_to_num().norm() / norm), 4 * np.finfo(np.float32).eps)
    if op == "prod":  # every factor may cost half an epsilon, and one large product may be all of the norm
        allowed = max(allowed, x.numel() / max(exact.numel(), 1) * np.finfo(np.float32).eps / 2)
    assert error <= allowed, f"{op}: {error:.2e} is over {allowed:.2e}"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("op", REDUCTIONS)
def test_rows_columns_and_both(op: str, target: Target) -> None:
    x = torch.randn(7, 5, 83) + 2  # a sum near zero would be judged by the luck of its rounding
    x[0, 0, 3] = 0
    for dims in [(2,), (0, 1), (0, 1, 2), (1,)]:
        check(op, x, dims, target)
    check(op, x.permute(2, 0, 1), (0, 2), target)


@given(st.data())
def test_any_view(data: Any) -> None:
    rank = data.draw(st.integers(1, 4))
    shape = [data.draw(st.sampled_from([1, 2, 3, 8, 17, 37])) for _ in range(rank)]
    x = (torch.randn(shape) + 2).permute(data.draw(st.permutations(range(rank))))
    dims = tuple(d for d in range(rank) if data.draw(st.booleans())) or (rank - 1,)
    op = data.draw(st.sampled_from([op for op in REDUCTIONS if op not in ("var", "std") or x[0].numel() > 1]))
    if op in ("var", "std") and np.prod([x.shape[d] for d in dims]) < 2:
        op = "sum"
    check(op, x, dims, data.draw(st.sampled_from(TARGETS)))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_long_sums_stay_accurate(target: Target) -> None:
    x = torch.rand(1_000_003) + 0.5
    check("sum", x, (0,), target)
    check("var", x + 1000, (0,), target)
    check("sum", x[:1_000_000].reshape(-1, 40), (0,), target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_nan_and_infinity(target: Target) -> None:
    x = torch.randn(6, 70)
    x[0, 5], x[1, 66], x[2, 7], x[3, :], x[4, 0] = torch.nan, torch.nan, torch.inf, -torch.inf, torch.inf
    for op in ("max", "min", "sum", "argmax", "argmin", "logsumexp", "norm_inf"):
        theirs = REFERENCE[op](x, (1,))
        ours = reduce(op, x, (1,), torch.zeros_like(theirs), target)
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-5, atol=1e-5)
        columns = x.T.contiguous()
        ours = reduce(op, columns, (0,), torch.zeros_like(theirs), target)
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_integers_and_bools(target: Target) -> None:
    x = torch.randint(-5, 6, (4, 33), dtype=torch.int64)
    for op in ("sum", "prod", "max", "min", "argmax", "argmin"):
        check(op, x, (1,), target)
        check(op, x, (0,), target)
    small = x.to(torch.int8)
    assert torch.equal(reduce("sum", small, (1,), torch.zeros(4, dtype=torch.int64), target), x.sum(1))
    mask = torch.rand(9, 50) > 0.05
    for op, expected in (("any", (~mask).any(1)), ("all", (~mask).all(1))):
        assert torch.equal(reduce(op, ~mask, (1,), torch.zeros(9, dtype=torch.bool), target), expected)
    assert torch.equal(reduce("sum", mask, (1,), torch.zeros(9, dtype=torch.int64), target), mask.sum(1))


def test_errors() -> None:
    with pytest.raises(InvalidInput, match=r"^reduction must be one of \[.*\], not 'median'$"):
        reduce_kernel("median", (3,), (0,), (1,), (), "float32", "float32", TARGETS[0])
    with pytest.raises(InvalidInput, match=r"^reduced dimensions must be within 0 to 0, not \(1,\)$"):
        reduce_kernel("sum", (3,), (1,), (1,), (), "float32", "float32", TARGETS[0])
