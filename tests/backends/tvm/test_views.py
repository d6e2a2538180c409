"""Views read the elements that PyTorch's view ops read, and are refused where PyTorch has to copy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fxpress import Target
from fxpress.backends.tvm import TvmBackend
from fxpress.backends.tvm.views import Storage, View, dense_strides
from fxpress.testing import trace
from hypothesis import given, settings
from hypothesis import strategies as st


def view_of(memory: torch.Tensor, shape: tuple[int, ...]) -> View:
    return View(Storage("arena", "float32", memory.numel()), 0, shape, dense_strides(shape))


def read(view: View, memory: torch.Tensor) -> torch.Tensor:
    """What a kernel reads through the view when `memory` is its storage."""
    return memory.as_strided(view.shape, view.strides, view.offset)


def permute(data: Any, view: View, x: torch.Tensor) -> tuple[View, torch.Tensor]:
    dims = data.draw(st.permutations(range(x.dim())))
    return view.permute(dims), x.permute(dims)


def slice_(data: Any, view: View, x: torch.Tensor) -> tuple[View, torch.Tensor]:
    dim = data.draw(st.integers(0, x.dim() - 1))
    start, step = data.draw(st.integers(0, x.shape[dim])), data.draw(st.integers(1, 3))
    end = data.draw(st.integers(start, x.shape[dim]))
    result = x[(slice(None),) * dim + (slice(start, end, step),)]
    return view.slice(dim, start, result.shape[dim], step), result


def select(data: Any, view: View, x: torch.Tensor) -> tuple[View, torch.Tensor] | None:
    dim = data.draw(st.integers(0, x.dim() - 1))
    if x.shape[dim] == 0:
        return None
    index = data.draw(st.integers(0, x.shape[dim] - 1))
    return view.select(dim, index), x.select(dim, index)


def expand(data: Any, view: View, x: torch.Tensor) -> tuple[View, torch.Tensor]:
    shape = [data.draw(st.sampled_from([1, 2, 3])) if size == 1 else size for size in x.shape]
    shape = data.draw(st.lists(st.integers(1, 2), max_size=1)) + shape
    return view.expand(shape), x.expand(shape)


def reshape(data: Any, view: View, x: torch.Tensor) -> tuple[View, torch.Tensor] | None:
    shape = data.draw(shapes_of(x))
    result = view.reshape(shape)
    if result is not None:
        return result, x.view(shape)  # raises where PyTorch needs a copy
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.view(shape)
    return None


@st.composite
def shapes_of(draw: Any, x: torch.Tensor) -> list[int]:
    """Another shape of as many elements: factors of the size put together anew, and dimensions of 1."""
    if x.numel() == 0:
        return [x.shape[0], 0, 2] if x.dim() and x.shape[0] == 0 else [0]
    factors, rest = [], x.numel()
    for prime in (2, 3, 5):
        while rest % prime == 0:
            factors.append(prime)
            rest //= prime
    shape = [1] * draw(st.integers(1, 4))
    for factor in (*factors, rest):
        shape[draw(st.integers(0, len(shape) - 1))] *= factor
    return shape


STEPS = [permute, slice_, select, expand, reshape]


@settings(max_examples=150)
@given(st.data())
def test_any_chain_of_views_reads_what_pytorch_reads(data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 10]), min_size=1, max_size=4)))
    memory = torch.arange(float(math.prod(shape)))
    view, x = view_of(memory, shape), memory.reshape(shape)
    for _ in range(data.draw(st.integers(1, 6))):
        if x.dim() == 0:
            break
        result = data.draw(st.sampled_from(STEPS))(data, view, x)
        if result is None:
            continue
        view, x = result
        assert view.shape == tuple(x.shape)
        assert torch.equal(read(view, memory), x)
        assert (view.elements, view.bytes) == (x.numel(), 4 * x.numel())
        assert view.is_dense == (x.is_contiguous() or x.numel() == 0)


def test_a_view_of_a_part_has_no_halo() -> None:
    view = View(Storage("arena", "float32", 400), 66, (1, 4, 4, 4), (144, 24, 4, 1), halo=(1, 1, 1, 1))
    for other in (view.permute((0, 1, 2, 3)), view.slice(1, 0, 2), view.select(0, 0), view.expand((2, 4, 4, 4))):
        assert other.halo == ()


def test_what_only_a_copy_can_do() -> None:
    view = view_of(torch.zeros(24), (4, 6))
    assert view.permute((1, 0)).reshape((24,)) is None
    assert view.slice(1, 0, 3).reshape((12,)) is None
    assert view.expand((2, 4, 6)).reshape((8, 6)) is None
    assert view.slice(1, 0, 3).reshape((2, 2, 3)) is not None


def test_what_no_view_can_be() -> None:
    view = view_of(torch.zeros(24), (4, 6))
    with pytest.raises(ValueError, match=r"^a view of 24 elements cannot have shape \(5, 5\)$"):
        view.reshape((5, 5))
    with pytest.raises(ValueError, match=r"^a view of shape \(4, 6\) cannot be expanded to \(8, 6\)$"):
        view.expand((8, 6))
    with pytest.raises(ValueError, match=r"^a view of shape \(4, 6\) cannot be expanded to \(6,\)$"):
        view.expand((6,))


@pytest.mark.parametrize(
    ("dtype", "size"), [("float64", 8), ("int64", 8), ("float32", 4), ("bfloat16", 2), ("int8", 1), ("bool", 1)]
)
def test_bytes_by_dtype(dtype: str, size: int) -> None:
    storage = Storage("input", dtype, 10)
    assert storage.bytes == 10 * size
    view = View(storage, 2, (4,), (2,))
    assert (view.dtype, view.bytes) == (dtype, 4 * size)


FREE = {
    "transpose": lambda x: x.transpose(-1, 0),
    "t": lambda x: x[0].t(),
    "permute": lambda x: x.permute(-1, 0, -2),
    "squeeze": lambda x: x[:, :1].squeeze(-2),
    "squeeze-all": lambda x: x[:1, :, :1].squeeze(),
    "squeeze-dims": lambda x: x[:1, :1].squeeze((0, -2)),
    "unsqueeze": lambda x: x.unsqueeze(-1).unsqueeze(1),
    "flatten": lambda x: x.flatten(-2),
    "unflatten": lambda x: x.unflatten(-1, (3, -1)),
    "view": lambda x: x.view(-1, 3, 2),
    "reshape-of-a-slice": lambda x: x[:, 1:3].reshape(2, 2, 3, 2),
    "narrow": lambda x: x.narrow(-2, 1, 2),
    "slice-from-the-end": lambda x: x[-1:, -3:-1, ::2],
    "slice-beyond": lambda x: x[:, 1:100],
    "select": lambda x: x[:, -2],
    "split": lambda x: x.split(3, -1)[1],
    "split-sizes": lambda x: x.split([1, 3], -2)[1],
    "chunk": lambda x: x.chunk(3, -1)[-1],
    "unbind": lambda x: x.unbind(-1)[2],
    "unfold": lambda x: x.unfold(-1, 3, 2),
    "expand": lambda x: x[:, :1].expand(5, -1, 3, -1)[1:, ...],
    "detach": lambda x: x.detach(),
    "chain": lambda x: x.permute(2, 0, 1).split(2)[1].transpose(0, 1).unflatten(2, (2, 2)).select(-1, 1),
}


@pytest.mark.parametrize("name", FREE)
def test_view_ops_cost_nothing(name: str) -> None:
    function = FREE[name]
    x = torch.arange(48.0).reshape(2, 4, 6)
    if name == "expand":
        x = x[:1].contiguous()
    program = trace(function, x)
    lowering = TvmBackend().lower(program, Target.parse("cpu")).lowering
    view = lowering.values[program.results[0]]
    assert view.storage.space == "input"
    assert torch.equal(read(view, x.flatten()), function(x))
    assert len(lowering.calls) == 1  # the copy to the output


def test_a_reshape_that_must_copy_says_so() -> None:
    program = trace(lambda x: x.transpose(0, 1).reshape(24), torch.randn(4, 6))
    lowered = TvmBackend().lower(program, Target.parse("cpu"))
    assert "copy: the reshape joins dimensions that do not lie densely" in lowered.text()
