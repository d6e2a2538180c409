"""Which element of a matrix each lane's registers hold, in mma instructions: the tables of the PTX ISA as formulas.

A lane belongs to group `lane // 4` and is thread `lane % 4` of it. A 32-bit register holds as many elements as fit,
next to each other along K in A and B, along N in C and D. (PTX ISA, "Matrix Fragments for mma" of each shape.)
"""

from __future__ import annotations

import functools

import numpy as np

from ..threads import WARP, Array


def _lanes() -> tuple[Array, Array]:
    lane = np.arange(WARP)[:, None]
    return lane // 4, lane % 4


@functools.cache
def a_fragment(m: int, k: int, width: int) -> tuple[Array, Array]:
    """Rows and columns, [32, elements], of A, m x k with elements of `width` bits: 8 rows and 4 threads at a time."""
    group, thread = _lanes()
    each = max(1, 32 // width)
    index = np.arange(m * k // WARP)[None]
    register, element = index // each, index % each
    blocks = m // 8
    rows = group + 8 * (register % blocks)
    columns = thread * each + element + 4 * each * (register // blocks)
    return rows, columns


@functools.cache
def b_fragment(k: int, n: int, width: int) -> tuple[Array, Array]:
    """Rows and columns, [32, elements], of B, k x n with n = 8."""
    group, thread = _lanes()
    each = max(1, 32 // width)
    index = np.arange(k * n // WARP)[None]
    rows = thread * each + index % each + 4 * each * (index // each)
    return rows, group + 0 * index


@functools.cache
def c_fragment(m: int, n: int) -> tuple[Array, Array]:
    """Rows and columns, [32, elements], of C and D, m x n with n = 8."""
    group, thread = _lanes()
    index = np.arange(m * n // WARP)[None]
    return group + 8 * (index // 2), 2 * thread + index % 2


def gather(values: Array, fragment: tuple[Array, Array], shape: tuple[int, int]) -> Array:
    """The matrices [warps, rows, columns] that the registers [warps, 32, elements] hold."""
    matrix = np.zeros((values.shape[0], *shape), dtype=values.dtype)
    matrix[:, fragment[0], fragment[1]] = values
    return matrix


def scatter(matrix: Array, fragment: tuple[Array, Array]) -> Array:
    """The registers [warps, 32, elements] that hold the matrices."""
    found: Array = matrix[:, fragment[0], fragment[1]]
    return found
