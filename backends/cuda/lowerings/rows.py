"""Views as the rows that kernels share among threads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ...tvm.views import View
from ..kernels.rows import Rows
from ..lowering import aligned_bytes


def rows_along(view: View, dims: Sequence[int]) -> Rows | None:
    """The view as rows along `dims`, which come in this order, or None where no single stride walks them."""
    kept = [d for d in range(len(view.shape)) if d not in dims]
    steps = [(view.shape[d], view.strides[d]) for d in dims if view.shape[d] != 1] or [(1, 1)]
    if any(outer[1] != size * stride for outer, (size, stride) in itertools.pairwise(steps)):
        return None
    size = math.prod(view.shape[d] for d in dims)
    rows, strides = (tuple(values[d] for d in kept) for values in (view.shape, view.strides))
    return Rows(rows, size, strides, steps[-1][1], view.dtype)


def vector_of(*pairs: tuple[Rows, View]) -> int:
    """How many elements of all these rows can be read or written at once."""
    return min(rows.widest(aligned_bytes(view)) for rows, view in pairs)
