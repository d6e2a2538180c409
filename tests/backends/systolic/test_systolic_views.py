"""Views of buffers: every view op moves addresses as PyTorch moves elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fxpress.backends.systolic.architecture import Memory
from fxpress.backends.systolic.compiler.nests import load_nest, padded
from fxpress.backends.systolic.compiler.views import Buffer, View, channel_dims, dense, operand
from hypothesis import given
from hypothesis import strategies as st

COLUMNS = 4


def addresses(view: View) -> torch.Tensor:
    """The byte of every element."""
    total = np.full((), view.offset, np.int64)
    for table in view.tables:
        total = total[..., None] + table
    return torch.from_numpy(np.array(total))


@st.composite
def values(draw: Any) -> View:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    lanes = draw(st.integers(0, len(shape) - 1))
    return dense(Buffer("x", 1 << 20), shape, lanes, np.arange(shape[lanes]), COLUMNS)


@given(st.data(), values())
def test_view_ops(data: st.DataObject, view: View) -> None:
    wanted = addresses(view)
    for _ in range(data.draw(st.integers(1, 4))):
        rank = len(view.shape)
        op = data.draw(st.sampled_from(["permute", "slice", "select", "expand", "reshape"]))
        dim = data.draw(st.integers(0, rank - 1)) if rank else 0
        if op == "permute":
            dims = data.draw(st.permutations(range(rank)))
            view, wanted = view.permute(dims), wanted.permute(dims)
        elif op == "slice" and rank:
            start = data.draw(st.integers(0, view.shape[dim] - 1))
            step = data.draw(st.integers(1, 2))
            length = len(range(start, view.shape[dim], step))
            view = view.slice(dim, start, length, step)
            wanted = wanted[(slice(None),) * dim + (slice(start, None, step),)]
        elif op == "select" and rank:
            index = data.draw(st.integers(0, view.shape[dim] - 1))
            view, wanted = view.select(dim, index), wanted.select(dim, index)
        elif op == "expand":
            shape = [2, *(3 if size == 1 else size for size in view.shape)]
            view, wanted = view.expand(shape), wanted.expand(shape)
        elif op == "reshape":
            joined = (-1,) if data.draw(st.booleans()) else (1, *reversed(view.shape))
            shape = tuple(wanted.reshape(joined).shape)
            changed = view.reshape(shape)
            if changed is None:
                continue
            view, wanted = changed, wanted.reshape(shape)
    assert view.shape == tuple(wanted.shape)
    assert torch.equal(addresses(view), wanted)


def test_a_reshape_that_cuts_padded_words_is_none() -> None:
    view = dense(Buffer("x", 8), (2, 6), 1, np.arange(6), COLUMNS)
    assert view.reshape((12,)) is not None
    assert view.reshape((4, 3)) is not None  # both halves of a pixel are reached by a constant step
    assert view.reshape((3, 4)) is None


def test_an_operand_has_pixels_and_channels() -> None:
    view = dense(Buffer("x", 100), (2, 3, 6), 2, np.arange(6), COLUMNS)
    found = operand(view, [2], COLUMNS)
    assert not isinstance(found, str)
    assert [(axis.count, axis.stride) for axis in found.axes] == [(2, 6), (3, 2)]
    assert found.words.tolist() == [0, 1]
    assert found.places.tolist() == [0, 1, 2, 3, 4, 5]
    assert channel_dims(view, COLUMNS) == [2]
    assert operand(view, [1], COLUMNS) == "elements of dim 2 do not lie in words of 4 bytes of their own"


@given(st.integers(-5, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 6))
def test_padded(first: int, count: int, step: int, size: int) -> None:
    level = padded(first, count, step, size, 7)
    inside = [first + i * step for i in range(level.before, count - level.after)]
    assert all(0 <= index < size for index in inside)
    outside = [first + i * step for i in (*range(level.before), *range(count - level.after, count))]
    assert all(index < 0 or index >= size for index in outside)
    assert level.stride == 7 * step


@given(st.data())
def test_load_nest_gathers_any_words(data: st.DataObject) -> None:
    words = np.array(sorted(data.draw(st.sets(st.integers(0, 12), min_size=1, max_size=6))))
    rows, columns = (
        padded(data.draw(st.integers(-2, 2)), data.draw(st.integers(1, 4)), 1, 3, stride) for stride in (100, 20)
    )
    filled: dict[int, int | None] = {}
    for load in load_nest(Memory.ACTIVATIONS, 5, 1000, rows, columns, words, 3, 0):
        counts = (load.count_z, load.count_y, load.count_x)
        strides = (load.stride_z, load.stride_y, load.stride_x)
        befores = (load.before_z, load.before_y, load.before_x)
        afters = (load.after_z, load.after_y, load.after_x)
        for i, index in enumerate(np.ndindex(*counts)):
            inside = all(b <= x < n - a for x, b, n, a in zip(index, befores, counts, afters, strict=True))
            address = load.dram + sum(x * s for x, s in zip(index, strides, strict=True))
            filled[load.destination + i] = address if inside else None
    wanted = [
        1000 + y * 100 + x * 20 + int(w)
        if rows.before <= y < rows.count - rows.after and columns.before <= x < columns.count - columns.after
        else None
        for y in range(rows.count)
        for x in range(columns.count)
        for w in words
    ]
    assert [filled[5 + i] for i in range(len(wanted))] == wanted
    assert len(filled) == len(wanted)
