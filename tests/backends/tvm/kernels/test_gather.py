"""Lookups and gathers against PyTorch: id types, packed tables, ids out of range."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress.backends.tvm.kernels.gather import Lookup, gather_kernel, lookup_kernel
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def look_up(kernel: Lookup, target: Target, table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(kernel.outer, kernel.count, kernel.inner, dtype=table.dtype)
    CompiledKernel(kernel, target)(table.numpy(), ids.numpy(), out.numpy())
    return out


def pack(table: torch.Tensor, panel: int) -> torch.Tensor:
    rows, inner = table.shape
    padded = torch.cat([table, torch.zeros(-rows % panel, inner)])
    return padded.reshape(-1, panel, inner).transpose(1, 2).contiguous()


@given(st.data())
def test_lookup(data: Any) -> None:
    outer, rows = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 7, 100]))
    inner, count = data.draw(st.sampled_from([1, 3, 16, 45, 384])), data.draw(st.sampled_from([1, 5, 128]))
    ids = torch.randint(0, rows, (count,), dtype=data.draw(st.sampled_from([torch.int32, torch.int64])))
    dtype = data.draw(st.sampled_from([torch.float32, torch.int8, torch.int64]))
    table = (100 * torch.randn(outer, rows, inner)).to(dtype)
    target = data.draw(st.sampled_from(TARGETS))
    kernel = lookup_kernel(outer, rows, inner, count, name_of(ids.dtype), name_of(dtype), target)
    assert torch.equal(look_up(kernel, target, table, ids), table[:, ids.long()])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("panel", [16, 32])
def test_packed_table(panel: int, target: Target) -> None:
    table, ids = torch.randn(75, 40), torch.randint(0, 75, (33,))
    kernel = lookup_kernel(1, 75, 40, 33, "int64", "float32", target, panel=panel)
    assert torch.equal(look_up(kernel, target, pack(table, panel), ids)[0], table[ids])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_ids_out_of_range_are_clamped_or_wrapped(target: Target) -> None:
    table, ids = torch.randn(10, 8), torch.tensor([-1, 10, 9, 1 << 40, -(1 << 40), -10])
    clamped = look_up(lookup_kernel(1, 10, 8, 6, "int64", "float32", target), target, table, ids)[0]
    assert torch.equal(clamped, table[ids.clamp(0, 9)])
    wrapped = look_up(lookup_kernel(1, 10, 8, 6, "int64", "float32", target, wrap=True), target, table, ids)[0]
    assert torch.equal(wrapped, table[[9, 9, 9, 9, 0, 0]])


@given(st.data())
def test_gather(data: Any) -> None:
    rank = data.draw(st.integers(1, 3))
    shape = [data.draw(st.integers(1, 9)) for _ in range(rank)]
    dim, target = data.draw(st.integers(0, rank - 1)), data.draw(st.sampled_from(TARGETS))
    x = torch.randn(shape).permute(data.draw(st.permutations(range(rank))))
    wanted = [
        data.draw(st.integers(1, n)) if d != dim else data.draw(st.integers(1, 20)) for d, n in enumerate(x.shape)
    ]
    ids = torch.randint(0, x.shape[dim], wanted)
    out = torch.zeros(wanted)
    kernel = gather_kernel(
        wanted, dim, x.shape[dim], "int64", "float32", x.stride(), ids.stride(), out.stride(), target
    )
    CompiledKernel(kernel, target)(x.numpy(), ids.numpy(), out.numpy())
    assert torch.equal(out, torch.gather(x, dim, ids))


def test_traffic_counts_the_rows_read() -> None:
    row, ids = 4 * 64, 8 * 10
    few = lookup_kernel(1, 1000, 64, 10, "int64", "float32", TARGETS[0])
    assert few.traffic([1000 * row, ids, 10 * row]) == 10 * row + ids + 10 * row
    again = lookup_kernel(1, 2, 64, 10, "int64", "float32", TARGETS[0])
    assert again.traffic([2 * row, ids, 10 * row]) == 2 * row + ids + 10 * row
    gather = gather_kernel((10, 1), 0, 1000, "int64", "float32", (64, 1), (1, 1), (1, 1), TARGETS[0])
    assert gather.traffic([1000 * row, ids, 40]) == 40 + ids + 40


def test_errors() -> None:
    with pytest.raises(InvalidInput, match=r"^lookup table must have at least 1 row, not 0$"):
        lookup_kernel(1, 0, 8, 6, "int64", "float32", TARGETS[0])
    with pytest.raises(InvalidInput, match=r"^lookup ids must be int32 or int64, not 'float32'; cast them$"):
        lookup_kernel(1, 4, 8, 6, "float32", "float32", TARGETS[0])
    with pytest.raises(InvalidInput, match=r"^packed lookup table must have outer 1, not 2$"):
        lookup_kernel(2, 4, 8, 6, "int64", "float32", TARGETS[0], panel=16)
