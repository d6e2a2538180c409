"""The register tile that every matrix product is made of: a few rows times a few vectors, summed over depth."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as B

from .base import Expr, Registers, broadcast

_UNROLL = 4  # depth steps a loop iteration: enough to hide the loop, few enough for the micro-op cache


def zeros(rows: int, vectors: int, lanes: int) -> Registers:
    """A tile of accumulators set to 0; row `i`, vector `j` is slot `i * vectors + j`."""
    tile = Registers(rows * vectors, lanes)
    for slot in range(rows * vectors):
        tile[slot] = broadcast(B.float32(0), lanes)
    return tile


def accumulate(
    tile: Registers,
    rows: int,
    vectors: int,
    depth: int | Expr,
    left: Callable[[int, Expr], Expr],
    right: Callable[[int, Expr], Expr],
) -> None:
    """Add the sum over `k < depth` of `left(i, k) * right(j, k)` to slot `i * vectors + j` of `tile`.

    `left` gives a scalar, `right` a vector. `depth` may be an expression; then the loop is not unrolled.
    """

    def step(k: Expr) -> None:
        columns = [B.bind(right(j, k)) for j in range(vectors)]
        for i in range(rows):
            value = broadcast(B.bind(left(i, k)), tile.lanes)
            for j in range(vectors):
                slot = i * vectors + j
                tile[slot] = tile[slot] + value * columns[j]

    if not isinstance(depth, int):
        with B.serial(depth) as k:
            step(k)
        return
    whole = depth // _UNROLL if depth > 2 * _UNROLL else 0
    if whole:
        with B.serial(whole) as block:
            for u in range(_UNROLL):
                step(block * _UNROLL + u)
    for k in range(whole * _UNROLL, depth):
        step(B.int32(k))
