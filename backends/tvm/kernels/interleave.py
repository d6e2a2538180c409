"""Elements of several vectors side by side, within blocks of 128 bits as the CPU's unpack instructions do it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tvm import tirx

from .base import Expr
from .vmath import hold, lanes_of, vector_type

BLOCK = 16  # bytes
QUAD = 4  # bytes side by side in a 32-bit lane


def unpack(x: Expr, y: Expr, element: str) -> tuple[Expr, Expr]:
    """The elements of x and y in turn: of the lower half of each block, and of the upper half."""
    size = 1 if element == "uint8" else 2
    lanes = lanes_of(x)
    per_block = BLOCK // size

    def half(start: int) -> Expr:
        order = [
            lane
            for block in range(0, lanes, per_block)
            for i in range(block + start, block + start + per_block // 2)
            for lane in (i, lanes + i)
        ]
        return hold(tirx.Shuffle([x, y], order))

    return half(0), half(per_block // 2)


def quads(low: tuple[Expr, Expr], high: tuple[Expr, Expr]) -> list[Expr]:
    """Four int32 vectors that hold bytes of four vectors side by side, two pairs of which `unpack` has joined.

    Lane `4 b + i` of vector `v` belongs to byte `16 b + 4 v + i`.
    """
    pairs = [(_as(x, "uint16", 2), _as(y, "uint16", 2)) for x, y in zip(low, high, strict=True)]
    return [_as(part, "int32", 2) for x, y in pairs for part in unpack(x, y, "uint16")]


def unpacked_order(values: torch.Tensor) -> torch.Tensor:
    """Reorder dimension 0, one entry a byte of a vector, as the lanes of `quads` have it."""
    rest = values.shape[1:]
    return values.reshape(-1, QUAD, BLOCK // QUAD, *rest).transpose(0, 1).reshape(-1, *rest)


def in_order(vectors: Sequence[Expr]) -> list[Expr]:
    """Four vectors of 32-bit lanes that are ordered as those of `quads`, in the order of the bytes."""
    lanes = lanes_of(vectors[0])
    ordered = []
    for start in range(0, QUAD * lanes, lanes):
        places = [divmod(byte, BLOCK) for byte in range(start, start + lanes)]
        lane = [(rest // QUAD) * lanes + block * QUAD + rest % QUAD for block, rest in places]
        used = sorted({i // lanes for i in lane})
        order = [used.index(i // lanes) * lanes + i % lanes for i in lane]
        ordered.append(hold(tirx.Shuffle([vectors[i] for i in used], order)))
    return ordered


def _as(x: Expr, element: str, narrower: int) -> Expr:
    """The bits of `x` as elements `narrower` times as wide."""
    return tirx.reinterpret(vector_type(element, lanes_of(x) // narrower), x)
