"""Scaled dot-product attention, each block of queries from scores to output at once.

Scores are computed transposed, keys down and queries across: the softmax then runs down the columns, without a single
horizontal reduction, and neither keys nor values are copied. Only the block's queries are transposed first. The whole
score column is kept (it lies in L2 for thousands of keys), so the softmax is the plain one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from . import vmath
from .base import Access, Expr, Kernel, Operand, Registers, broadcast, scratch
from .gemm import CHUNK, accumulate, best_rows, counts, part, rows_cycles, tasks, tiles, zeros
from .loops import run

_LOWEST = -3.4028234663852886e38


@dataclass(frozen=True)
class Heads:
    """Where a [batch, head, row, column] view lies: strides in elements; columns are dense."""

    batch: int
    head: int
    row: int


@dataclass(frozen=True)
class Mask:
    """A mask over [batch, head, query, key]: strides in elements (0 broadcasts); batch `b` uses `b % period`.

    `dtype` 'float32' is added to the scores, 'bool' keeps the scores where true and hides the others. With `fill` a
    'bool' puts that number in place of the others, and a 'float32' itself wherever it is not +infinity.
    """

    dtype: str
    batch: int
    head: int
    query: int
    key: int
    period: int
    fill: float | None = None

    @property
    def direct(self) -> bool:
        """Whether scores can take it as it lies: one value for all queries, or floats dense over the queries."""
        return self.query == 0 or (self.query == 1 and self.dtype == "float32")


@dataclass(frozen=True, kw_only=True)
class Attention(Kernel):
    """y[b, h, s, dv] = softmax(scale * q[b, h, s, d] @ k[b, hk, t, d]^T + mask[b, h, s, t]) @ v[b, hk, t, dv].

    Operands: q, k, v, mask if given, y. Query head h reads key head `h // (heads // kv_heads)`. `causal` lets query i
    see keys 0 to i. A query whose scores are all -inf gives zeros, as in PyTorch's attention, or with `strict` NaN, as
    in its softmax.
    """

    name: ClassVar[str] = "attention"

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    depth: int
    value_depth: int
    q: Heads
    k: Heads
    v: Heads
    y: Heads
    mask: Mask | None = None
    causal: bool = False
    strict: bool = False
    scale: float
    lanes: int
    query_vectors: int
    key_rows: int
    value_tile: tuple[int, int]

    def operands(self) -> tuple[Operand, ...]:
        inputs = [Operand(name, "float32") for name in "qkv"]
        if self.mask is not None:
            inputs.append(Operand("mask", self.mask.dtype))
        return (*inputs, Operand("y", "float32", write=True))

    def flops(self) -> int:
        return 2 * self.batch * self.heads * self.queries * self.keys * (self.depth + self.value_depth)

    def describe(self) -> str:
        return f"attention {self.query_vectors * self.lanes} queries, keys {self.key_rows}, values {self.value_tile}"

    def emit(self, *operands: Access) -> None:
        q, k, v, *mask, y = operands
        width = self.lanes * self.query_vectors
        blocks = -(-self.queries // width)
        with tasks(self.batch * self.heads * blocks, self.flops()) as task:
            block, head = B.bind(task % blocks), B.bind(task // blocks % self.heads)
            batch = B.bind(task // (blocks * self.heads))
            kv_head = B.bind(head // (self.heads // self.kv_heads))
            first = B.bind(block * width)

            def at(access: Access, where: Heads, head: Expr, row: Expr | int = 0) -> Access:
                return access.shifted(batch * where.batch + head * where.head + row * where.row)

            masked = None
            if self.mask is not None:
                m = self.mask
                masked = m, mask[0].shifted(batch % m.period * m.batch + head * m.head + first * m.query)
            queries = scratch(self.depth * width)
            scores = scratch(self.keys * width)
            factors = scratch(width)

            def body(count: int) -> None:
                visible = B.bind(B.min(first + count, self.keys)) if self.causal else self.keys
                self._transpose(at(q, self.q, head, first), queries, count)
                maxima = Registers(-(-count // self.lanes), self.lanes)
                self._scores(queries, at(k, self.k, kv_head), masked, scores, maxima, first, visible, count)
                self._softmax(scores, maxima, factors, visible, count)
                self._values(scores, at(v, self.v, kv_head), factors, at(y, self.y, head, first), visible, count)

            part(block, self.queries, width, body)

    def _transpose(self, q: Access, queries: Access, count: int) -> None:
        """queries[d][i] = scale * q[i][d]; columns that no query fills are zero."""
        width, lanes = self.lanes * self.query_vectors, self.lanes
        padded = -(-count // lanes) * lanes
        if padded > count:
            with B.serial(self.depth) as d:
                queries.store(d * width + padded - lanes, broadcast(B.float32(0), lanes), lanes)
        vectors, tail = divmod(self.depth, lanes)
        scale = B.float32(self.scale)
        with B.serial(count) as i:
            for j in range(vectors):
                value = q.load(i * self.q.row + j * lanes, lanes) * broadcast(scale, lanes)
                queries.store(j * lanes * width + i, value, lanes, stride=width)
            if tail:
                with B.serial(tail) as d:
                    column = B.bind(vectors * lanes + d)
                    queries.store(column * width + i, q.load(i * self.q.row + column) * scale)

    def _scores(
        self,
        queries: Access,
        k: Access,
        mask: tuple[Mask, Access] | None,
        scores: Access,
        maxima: Registers,
        first: Expr,
        visible: Expr | int,
        count: int,
    ) -> None:
        """scores[key][query], masked, and the largest score of each query."""
        width, lanes, vectors = self.lanes * self.query_vectors, self.lanes, -(-count // self.lanes)
        for j in range(vectors):
            maxima[j] = broadcast(B.float32(-math.inf if self.strict else _LOWEST), lanes)
        if mask is not None and not mask[0].direct:
            self._transpose_mask(*mask, scores, count)

        def addend(where: Mask, values: Access, key: Expr, j: int) -> Expr:
            if not where.direct:
                return scores.load(key * width + j * lanes, lanes)
            at = key * where.key
            if where.query == 0:
                return broadcast(_addend(where, values.load(at), 1), lanes)
            return values.load(at + j * lanes, lanes, count=counts(count, lanes)[j])

        def tile(row: Expr, rows: int) -> None:
            sums = zeros(rows, vectors, lanes)
            keys = k.shifted(row * self.k.row)
            accumulate(
                sums,
                rows,
                vectors,
                self.depth,
                lambda i, d: keys.load(i * self.k.row + d),
                lambda j, d: queries.load(d * width + j * lanes, lanes),
            )
            for i in range(rows):
                for j in range(vectors):
                    score = sums[i * vectors + j]
                    if mask is not None:
                        score = _masked(score, mask[0], B.bind(addend(*mask, row + i, j)), lanes)
                    if self.causal:
                        query = broadcast(first + j * lanes, lanes) + B.ramp(B.int32(0), 1, lanes)
                        seen = broadcast(row + i, lanes) <= query
                        score = vmath.select(seen, B.bind(score), broadcast(B.float32(-math.inf), lanes))
                    score = B.bind(score)
                    scores.store((row + i) * width + j * lanes, score, lanes)
                    maxima[j] = B.max(maxima[j], score)

        tiles(self.keys, self.key_rows, tile, visible if self.causal else None)

    def _transpose_mask(self, where: Mask, mask: Access, scores: Access, count: int) -> None:
        """scores[key][query] = what the mask adds to that score."""
        width = self.lanes * self.query_vectors
        with B.serial(count) as i:
            row = mask.shifted(i * where.query)

            def copy(key: Expr, lanes: int, slot: int) -> None:
                value = _addend(where, row.load(key * where.key, lanes, stride=where.key), lanes)
                scores.store(key * width + i, value, lanes, stride=width)

            run(self.keys, self.lanes, copy)

    def _softmax(self, scores: Access, maxima: Registers, factors: Access, visible: Expr | int, count: int) -> None:
        """Scores become exp(score - maximum); factors[query] = 1 / their sum, 0 for a query that sees no key."""
        width, lanes, vectors = self.lanes * self.query_vectors, self.lanes, -(-count // self.lanes)
        sums = zeros(1, vectors, lanes)
        # One running sum of thousands of weights would round too often.
        with B.serial((visible + (CHUNK - 1)) // CHUNK) as chunk:
            start = B.bind(chunk * CHUNK)
            partial = zeros(1, vectors, lanes)
            with B.serial(B.min(B.int32(CHUNK), visible - start)) as key:
                for j in range(vectors):
                    at = B.bind((start + key) * width + j * lanes)
                    weight = vmath.exp_nonpositive(B.bind(scores.load(at, lanes) - maxima[j]))
                    scores.store(at, weight, lanes)
                    partial[j] = partial[j] + weight
            for j in range(vectors):
                sums[j] = sums[j] + partial[j]
        zero, one = broadcast(B.float32(0), lanes), broadcast(B.float32(1), lanes)
        for j in range(vectors):
            total = B.bind(sums[j])
            factors.store(j * lanes, vmath.select(total.equal(zero), zero, one / total), lanes)

    def _values(self, weights: Access, v: Access, factors: Access, y: Access, visible: Expr | int, count: int) -> None:
        """y[query] = factors[query] * sum over keys of weights[key][query] * v[key]."""
        width, lanes = self.lanes * self.query_vectors, self.lanes
        rows, vectors = self.value_tile

        def columns(start: int, vectors: int) -> None:
            valid = counts(min(vectors * lanes, self.value_depth - start), lanes)

            def tile(row: Expr, rows: int) -> None:
                sums = zeros(rows, vectors, lanes)
                accumulate(
                    sums,
                    rows,
                    vectors,
                    visible,
                    lambda i, key: weights.load(key * width + row + i),
                    lambda j, key: v.load(key * self.v.row + start + j * lanes, lanes, count=valid[j]),
                    most=self.keys,
                )
                for i in range(rows):
                    factor = broadcast(B.bind(factors.load(row + i)), lanes)
                    for j in range(vectors):
                        value = sums[i * vectors + j] * factor
                        y.store((row + i) * self.y.row + start + j * lanes, value, lanes, count=valid[j])

            tiles(count, rows, tile)

        total = -(-self.value_depth // lanes)
        for start in range(0, total, vectors):
            columns(start * lanes, min(vectors, total - start))

    @classmethod
    def choose(
        cls,
        *,
        batch: int,
        heads: int,
        kv_heads: int | None = None,
        queries: int,
        keys: int,
        depth: int,
        value_depth: int | None = None,
        target: CpuTarget,
        q: Heads | None = None,
        k: Heads | None = None,
        v: Heads | None = None,
        y: Heads | None = None,
        mask: Mask | None = None,
        causal: bool = False,
        strict: bool = False,
        scale: float | None = None,
    ) -> Attention:
        """The kernel with tiles chosen for `target`; views are dense where not given, `scale` is 1 / sqrt(depth)."""
        kv_heads, value_depth = kv_heads or heads, value_depth or depth
        lanes, registers = target.vector.lanes, target.vector.registers

        def dense(heads: int, rows: int, columns: int) -> Heads:
            return Heads(heads * rows * columns, rows * columns, columns)

        value_vectors = -(-value_depth // lanes)

        def value_tile(width: int) -> tuple[int, int]:
            options = [(best_rows(width, vectors, registers), vectors) for vectors in (1, 2, 3, 4)]
            return min(options, key=lambda o: (-(-value_vectors // o[1])) * rows_cycles(width, *o))

        def cycles(query_vectors: int) -> float:
            width = query_vectors * lanes
            whole, tail = divmod(queries, width)
            key_rows = best_rows(keys, query_vectors, registers)
            rows, vectors = value_tile(width)
            passes = -(-value_vectors // vectors)

            def block(count: int) -> float:
                scores = depth * rows_cycles(keys, key_rows, -(-count // lanes))
                return scores + passes * keys * rows_cycles(count, rows, vectors)

            return whole * block(width) + (block(tail) if tail else 0.0)

        most = max(1, min(4, -(-queries // lanes), target.l2 // 2 // (4 * keys * lanes)))
        query_vectors = min(range(1, most + 1), key=cycles)
        return cls(
            batch=batch,
            heads=heads,
            kv_heads=kv_heads,
            queries=queries,
            keys=keys,
            depth=depth,
            value_depth=value_depth,
            q=q or dense(heads, queries, depth),
            k=k or dense(kv_heads, keys, depth),
            v=v or dense(kv_heads, keys, value_depth),
            y=y or dense(heads, queries, value_depth),
            mask=mask,
            causal=causal,
            strict=strict,
            scale=depth**-0.5 if scale is None else scale,
            lanes=lanes,
            query_vectors=query_vectors,
            key_rows=best_rows(keys, query_vectors, registers),
            value_tile=value_tile(query_vectors * lanes),
        )


def _addend(mask: Mask, value: Expr, lanes: int) -> Expr:
    """A mask's element as a float: what is added to a score or takes its place."""
    if mask.dtype == "float32":
        return value
    shown, hidden = mask_numbers(mask.fill)
    return vmath.select(value, broadcast(B.float32(shown), lanes), broadcast(B.float32(hidden), lanes))


def _masked(score: Expr, mask: Mask, addend: Expr, lanes: int) -> Expr:
    if mask.fill is None:
        return score + addend
    return vmath.select(addend.equal(broadcast(B.float32(math.inf), lanes)), B.bind(score), addend)


def mask_numbers(fill: float | None) -> tuple[float, float]:
    """What true and false of a bool mask are as floats."""
    return (0.0, -math.inf) if fill is None else (math.inf, fill)
