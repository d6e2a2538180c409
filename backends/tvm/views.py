"""Storages and views: where values live before addresses are known, and how view ops act on them at no cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Space = Literal["constant", "derived", "arena", "input", "output"]

ITEM_SIZES = {
    "float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2,
    "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


@dataclass(eq=False)
class Storage:
    """Memory of `elements` elements. `index` numbers inputs and outputs; `offset` is bytes, set by the planner."""

    space: Space
    dtype: str
    elements: int
    index: int = 0
    offset: int = 0

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.elements * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class View:
    """A strided window on a storage; `offset` and `strides` count elements.

    `halo` is how far elements of the value `fill` lie beyond its edges: (before, after) for each spatial dim of a
    channels-last value. `biased` says that an int8 value is held as uint8, 128 added to each element: what the
    instructions for 8-bit dot products read.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    halo: tuple[int, ...] = ()
    fill: int = 0
    biased: bool = False

    @property
    def dtype(self) -> str:
        """The element type."""
        return self.storage.dtype

    @property
    def elements(self) -> int:
        """How many elements the view shows."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes the view shows."""
        return self.elements * ITEM_SIZES[self.dtype]

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie row-major without gaps."""
        return self.elements == 0 or all(
            size == 1 or stride == dense
            for size, stride, dense in zip(self.shape, self.strides, dense_strides(self.shape), strict=True)
        )

    def permute(self, dims: Sequence[int]) -> View:
        """Dimensions in another order."""
        return replace(
            self, shape=tuple(self.shape[d] for d in dims), strides=tuple(self.strides[d] for d in dims), halo=()
        )

    def slice(self, dim: int, start: int, length: int, step: int = 1) -> View:
        """`length` elements of `dim` from `start`, `step` apart."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[dim]
        shape[dim] = length
        strides[dim] *= step
        return replace(self, offset=offset, shape=tuple(shape), strides=tuple(strides), halo=())

    def select(self, dim: int, index: int) -> View:
        """One element of `dim`, which goes away."""
        return replace(
            self,
            offset=self.offset + index * self.strides[dim],
            shape=self.shape[:dim] + self.shape[dim + 1 :],
            strides=self.strides[:dim] + self.strides[dim + 1 :],
            halo=(),
        )

    def expand(self, shape: Sequence[int]) -> View:
        """Broadcast to `shape`: dimensions of 1 repeat, others come in front."""
        extra = len(shape) - len(self.shape)
        if extra < 0 or any(size not in (1, wanted) for size, wanted in zip(self.shape, shape[extra:], strict=True)):
            raise ValueError(f"a view of shape {self.shape} cannot be expanded to {tuple(shape)}")
        strides = [0] * extra
        for size, stride, wanted in zip(self.shape, self.strides, shape[extra:], strict=True):
            strides.append(stride if size == wanted else 0)
        return replace(self, shape=tuple(shape), strides=tuple(strides), halo=())

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The same elements in row-major order under another shape, or None when only a copy could do that."""
        shape = tuple(shape)
        if math.prod(shape) != self.elements:
            raise ValueError(f"a view of {self.elements} elements cannot have shape {shape}")
        if self.elements == 0 or self.is_dense:
            return replace(self, shape=shape, strides=dense_strides(shape), halo=())
        strides = _reshape_strides(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=shape, strides=strides, halo=())


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def one_stride(shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """The single stride with which these dims can be walked as one, or None."""
    stride, count = 0, 1
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        if size == 1:
            continue
        if count == 1:
            stride = step
        elif step != stride * count:
            return None
        count *= size
    return stride


def _reshape_strides(
    old_shape: Sequence[int], old_strides: Sequence[int], shape: Sequence[int]
) -> tuple[int, ...] | None:
    """Strides of the reshaped view: new dims must cut or join only runs of old dims that lie densely one in another."""
    old = [(size, stride) for size, stride in zip(old_shape, old_strides, strict=True) if size != 1]
    runs: list[tuple[int, int]] = []  # (elements, innermost stride), outermost first
    for size, stride in old:
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    strides = [0] * len(shape)
    position = len(shape) - 1
    for elements, innermost in reversed(runs):
        step, left = innermost, elements
        while left > 1:
            while position >= 0 and shape[position] == 1:
                strides[position] = step
                position -= 1
            if position < 0 or left % shape[position]:
                return None
            strides[position] = step
            step *= shape[position]
            left //= shape[position]
            position -= 1
    return tuple(strides)
