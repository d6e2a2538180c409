"""The ops of sparse storage element by element: what test_sparse_ops.py holds them to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def unpack_blocks(values: Tensor, columns: Tensor, pointers: Tensor, shape: Sequence[int]) -> Tensor:
    weight = torch.zeros(*shape, dtype=values.dtype)
    _, r, c = values.shape
    for row, (begin, end) in enumerate(itertools.pairwise(pointers.tolist())):
        for number in range(begin, end):
            for i, j in itertools.product(range(r), range(c)):
                output, place = row * r + i, int(columns[number]) * c + j
                if output < shape[0] and place < math.prod(shape[1:]):
                    weight[(output, *index(place, shape[1:]))] = values[number, i, j]
    return weight


def unpack_masked(values: Tensor, mask: Tensor, shape: Sequence[int]) -> Tensor:
    weight = torch.zeros(*shape, dtype=values.dtype)
    following = iter(values)
    for number, at in enumerate(elements(shape)):
        if int(mask[number // 8]) >> number % 8 & 1:
            weight[at] = next(following)
    return weight


def elements(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every index of a weight, in the row-major order of its matrix."""
    for output in range(shape[0]):
        for place in range(math.prod(shape[1:])):
            yield output, *index(place, shape[1:])


def index(place: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """(input, *kernel) of a column of the matrix: inputs run fastest."""
    inputs, *kernel = sizes
    place, channel = divmod(place, inputs)
    found: list[int] = []
    for size in reversed(kernel):
        place, at = divmod(place, size)
        found.insert(0, at)
    return channel, *found


SPARSE_FORMULAS = {"unpack_blocks": unpack_blocks, "unpack_masked": unpack_masked}
