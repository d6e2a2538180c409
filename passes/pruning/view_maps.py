"""Index maps of what moves values: reshape, permute, slice, concatenation, pixel shuffle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from .map_types import IndexMap, Kept
from .ties import Axis, Ties, rank, size_of

aten = torch.ops.aten
Arguments = Mapping[str, Any]


Part = tuple[list[int], list[int], list[int] | None]


def reshape_parts(
    before: Sequence[Any], after: Sequence[Any]
) -> Iterator[tuple[list[int], list[int], list[int] | None]]:
    """The parts that a reshape consists of: dims before, dims after, and the common factors of both, outermost first.

    Dims of size 1 are in no part. Factors are None where the dims have none, as in [4, 6] -> [3, 8], or a size varies.
    """
    left = [(dim, size) for dim, size in enumerate(before) if not (isinstance(size, int) and size == 1)]
    right = [(dim, size) for dim, size in enumerate(after) if not (isinstance(size, int) and size == 1)]
    last: list[Part] = []
    while left and right and any(not isinstance(s, int) for _, s in (*left, *right)):
        if str(left[0][1]) == str(right[0][1]):
            yield [left.pop(0)[0]], [right.pop(0)[0]], [0]
        elif str(left[-1][1]) == str(right[-1][1]):
            last.append(([left.pop()[0]], [right.pop()[0]], [0]))
        else:
            yield [d for d, _ in left], [d for d, _ in right], None
            left, right = [], []
    yield from last
    while left and right:
        ours, theirs = [left.pop(0)], [right.pop(0)]
        while (m := prod(s for _, s in ours)) != (n := prod(s for _, s in theirs)):
            if m < n:
                ours.append(left.pop(0))
            else:
                theirs.append(right.pop(0))
        yield [d for d, _ in ours], [d for d, _ in theirs], _common([s for _, s in ours], [s for _, s in theirs])


def _common(left: Sequence[int], right: Sequence[int]) -> list[int] | None:
    """The factors of which both sequences of sizes are made by joining neighbours."""
    cuts = sorted({prod(sizes[:n]) for sizes in (left, right) for n in range(len(sizes) + 1)})
    if any(b % a for a, b in pairwise(cuts)):
        return None
    return [b // a for a, b in pairwise(cuts)]


def _reshape(m: Ties, node: Node, a: Arguments) -> None:
    x, number = a["self"], 0
    before, after = tuple(x.meta["val"].shape), tuple(node.meta["val"].shape)
    if 0 in before:
        return m.hold_value(node, "an empty tensor")
    for ours, theirs, sizes in reshape_parts(before, after):
        if len(ours) == len(theirs) == 1:
            m.same(m.axis(x, ours[0]), m.axis(node, theirs[0]))
            continue
        if sizes is None:
            for axis in (*(m.axis(x, dim) for dim in ours), *(m.axis(node, dim) for dim in theirs)):
                m.hold(axis, "dims without common factors, reshaped")
            continue
        factors = [m.factor(number + i, size) for i, size in enumerate(sizes)]
        number += len(sizes)
        for value, dims in ((x, ours), (node, theirs)):
            first = 0
            for dim in dims:
                last = first + 1
                while prod(sizes[first:last]) < size_of(value, dim):
                    last += 1
                m.split(m.axis(value, dim), factors[first:last])
                first = last


def _result_sizes(name: str) -> Any:
    """The sizes that an argument gives the result, where they are numbers."""

    def literals(kept: Kept, node: Node, a: Arguments) -> dict[str, Any]:
        sizes = [
            kept.count(Axis(node, dim)) if isinstance(given, int) and given != -1 else given
            for dim, given in enumerate(a[name])
        ]
        return {name: sizes}

    return literals


def _permute(m: Ties, node: Node, a: Arguments) -> None:
    for dim, source in enumerate(a["dims"]):
        m.same(m.axis(a["self"], source), m.axis(node, dim))


def _unsqueeze(m: Ties, node: Node, a: Arguments) -> None:
    new = a["dim"] % rank(node)
    for dim in range(rank(a["self"])):
        m.same(m.axis(a["self"], dim), m.axis(node, dim + (dim >= new)))


def _squeeze(m: Ties, node: Node, a: Arguments) -> None:
    x = a["self"]
    dims = a.get("dim", range(rank(x)))
    gone = {dim % rank(x) for dim in ([dims] if isinstance(dims, int) else dims)}
    left = [dim for dim in range(rank(x)) if not (dim in gone and size_of(x, dim) == 1)]
    for new, dim in enumerate(left):
        m.same(m.axis(x, dim), m.axis(node, new))


def _expand(m: Ties, node: Node, a: Arguments) -> None:
    x = a["self"]
    m.broadcast(x, node)
    for dim in range(rank(node)):
        old = dim - (rank(node) - rank(x))
        if old < 0 or (size_of(x, old) == 1 and size_of(node, dim) != 1):
            m.reluctant.add(m.axis(node, dim))


def _slice(m: Ties, node: Node, a: Arguments) -> None:
    x, dim = a["self"], a["dim"] % rank(node)
    for other in range(rank(node)):
        if other != dim:
            m.same(m.axis(x, other), m.axis(node, other))
    source, result = m.axis(x, dim), m.axis(node, dim)
    n = m.sizes[source]
    if not n or not m.sizes[result] or not all(isinstance(v, int | None) for v in (a["start"], a["end"])):
        m.hold(source, "a slice of a size that varies")
        return m.hold(result, "a slice of a size that varies")
    start, end, step = slice(a["start"], a["end"], a["step"]).indices(n)
    if step != 1:
        m.hold(source, "a slice with a step")
    m.tie(source, np.arange(start, end, step), result, np.arange(m.sizes[result]))


def _slice_bounds(kept: Kept, node: Node, a: Arguments) -> dict[str, Any]:
    x, dim = a["self"], a["dim"] % rank(node)
    n = size_of(x, dim)
    axis = Axis(x, dim)
    if not isinstance(n, int) or kept.count(axis) == n:
        return {}
    start, end, _ = slice(a["start"], a["end"], 1).indices(n)
    left = kept.indices(axis)
    return {"start": int((left < start).sum()), "end": int((left < end).sum())}


def _select(m: Ties, node: Node, a: Arguments) -> None:
    x, dim = a["self"], a["dim"] % rank(a["self"])
    m.hold(m.axis(x, dim), "one index is selected by its number")
    for other in range(rank(x)):
        if other != dim:
            m.same(m.axis(x, other), m.axis(node, other - (other > dim)))


def _split(m: Ties, node: Node, a: Arguments) -> None:
    x, dim, first = a["self"], a["dim"] % rank(a["self"]), 0
    for part, size in enumerate(a["split_sizes"]):
        for other in range(rank(x)):
            if other != dim:
                m.same(m.axis(x, other), m.axis(node, other, part))
        m.tie(m.axis(x, dim), np.arange(first, first + size), m.axis(node, dim, part), np.arange(size))
        first += size


def _split_sizes(kept: Kept, node: Node, a: Arguments) -> dict[str, Any]:
    dim = a["dim"] % rank(a["self"])
    return {"split_sizes": [kept.count(Axis(node, dim, part)) for part in range(len(a["split_sizes"]))]}


def _cat(m: Ties, node: Node, a: Arguments) -> None:
    dim, first = a["dim"] % rank(node), 0
    for value in a["tensors"]:
        if rank(value) != rank(node):  # an empty vector, which PyTorch lets pass
            m.hold_value(value, "an empty tensor")
            continue
        for other in range(rank(node)):
            if other != dim:
                m.same(m.axis(value, other), m.axis(node, other))
        source, result = m.axis(value, dim), m.axis(node, dim)
        size = m.sizes[source]
        if not m.sizes[result] or not isinstance(size_of(value, dim), int):
            m.hold(source, "a size that varies")
            m.hold(result, "a size that varies")
            continue
        m.tie(source, np.arange(size), result, np.arange(first, first + size))
        first += size


def _pad(m: Ties, node: Node, a: Arguments) -> None:
    x, padding = a["self"], a["pad"]
    padded = {rank(x) - 1 - i // 2 for i, amount in enumerate(padding) if not (isinstance(amount, int) and amount == 0)}
    for dim in range(rank(x)):
        if dim not in padded:
            m.same(m.axis(x, dim), m.axis(node, dim))
            continue
        m.hold(m.axis(x, dim), "a dim that is padded")
        m.hold(m.axis(node, dim), "a dim that is padded")


def _pixel_shuffle(m: Ties, node: Node, a: Arguments) -> None:
    factor = a["upscale_factor"]
    _shuffle(m, node, a["self"], many=a["self"], few=node, factor=factor)


def _pixel_unshuffle(m: Ties, node: Node, a: Arguments) -> None:
    _shuffle(m, node, a["self"], many=node, few=a["self"], factor=a["downscale_factor"])


def _shuffle(m: Ties, node: Node, x: Node, *, many: Node, few: Node, factor: int) -> None:
    for dim in range(rank(x) - 3):
        m.same(m.axis(x, dim), m.axis(node, dim))
    for value in (x, node):
        for dim in (-1, -2):
            m.hold(m.axis(value, dim), "positions of an image")
    n = m.sizes[m.axis(few, -3)]
    blocks = np.arange(n * factor * factor)
    m.tie(m.axis(many, -3), blocks, m.axis(few, -3), blocks // (factor * factor))


def _flip(m: Ties, node: Node, a: Arguments) -> None:
    m.broadcast(a["self"], node)
    for dim in a["dims"]:
        m.hold(m.axis(node, dim), "an order that is reversed")


def _repeat(m: Ties, node: Node, a: Arguments) -> None:
    x, new = a["self"], rank(node) - rank(a["self"])
    for dim, times in enumerate(a["repeats"]):
        result = m.axis(node, dim)
        if dim < new or not isinstance(times, int) or size_of(x, dim - new) == 1:
            m.hold(result, "a dim that is repeated")
            if dim >= new:
                m.hold(m.axis(x, dim - new), "a dim that is repeated")
            continue
        source = m.axis(x, dim - new)
        if times == 1 or not m.sizes[source]:
            m.same(source, result)
            continue
        indices = np.arange(m.sizes[result])
        m.tie(result, indices, source, indices % m.sizes[source])


def _full(m: Ties, node: Node, a: Arguments) -> None:
    m.reluctant |= set(m.axes(node))


def _numbers(m: Ties, node: Node, a: Arguments) -> None:
    m.hold_value(node, "numbers counted up")


VIEWS: dict[Any, IndexMap] = {
    aten.reshape.default: IndexMap(_reshape, _result_sizes("shape")),
    aten.permute.default: IndexMap(_permute),
    aten.unsqueeze.default: IndexMap(_unsqueeze),
    aten.squeeze.default: IndexMap(_squeeze),
    aten.squeeze.dim: IndexMap(_squeeze),
    aten.squeeze.dims: IndexMap(_squeeze),
    aten.expand.default: IndexMap(_expand, _result_sizes("size")),
    aten.slice.Tensor: IndexMap(_slice, _slice_bounds),
    aten.select.int: IndexMap(_select),
    aten.split_with_sizes.default: IndexMap(_split, _split_sizes),
    aten.cat.default: IndexMap(_cat),
    aten.constant_pad_nd.default: IndexMap(_pad),
    aten.pixel_shuffle.default: IndexMap(_pixel_shuffle),
    aten.pixel_unshuffle.default: IndexMap(_pixel_unshuffle),
    aten.flip.default: IndexMap(_flip),
    aten.repeat.default: IndexMap(_repeat),
    aten.full.default: IndexMap(_full, _result_sizes("size")),
    aten.arange.start_step: IndexMap(_numbers),
    aten.scalar_tensor.default: IndexMap(_numbers),
}
