"""Attention on 8-bit integers: scores and results are sums of products of bytes, the softmax between them is float32.

As in the float kernel scores are computed transposed, keys down and queries across. Each block packs its queries and
the values so that four bytes that are multiplied and summed together lie in one 32-bit lane: four of the depth for the
scores, four keys for the results.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from ....ops import WEIGHT_STEPS
from . import vmath
from .attention import Heads, Mask
from .base import Access, Expr, Kernel, Operand, Registers, broadcast, scratch
from .gemm import best_rows, counts, part, tasks, tiles
from .integer import STEP, DotProduct, reinterpret
from .requantization import fence, round_even

_LOWEST = -3.4028234663852886e38
_BIAS = 0x80808080 - (1 << 32)  # turns four biased bytes into signed ones and back
_ONES = 0x01010101


@dataclass(frozen=True, kw_only=True)
class IntegerAttention(Kernel):
    """What fxpress::quantized_attention defines, on biased views.

    Operands: q, k, v, mask if given, `numbers` (from `pack_numbers`), y. Query head h reads key head
    `h // (heads // kv_heads)`. `causal` lets query i see keys 0 to i.
    """

    name: ClassVar[str] = "integer-attention"

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
    dot: DotProduct
    query_vectors: int
    key_rows: int
    value_tile: tuple[int, int]

    def __post_init__(self) -> None:
        if self.mask is not None and not self.mask.direct:
            raise ValueError("mask must be one value for all queries or floats that are dense over the queries")

    @staticmethod
    def pack_numbers(score: float, key_zero: int, value: float, value_zero: int, y_zero: int) -> torch.Tensor:
        """The operand `numbers`: `score` and `value` are the factors of scores and of results, as float64."""

        def as_bits(x: float) -> int:
            return int(struct.unpack("<i", struct.pack("<f", x))[0])

        return torch.tensor([as_bits(score), key_zero + 128, as_bits(value), value_zero, y_zero + 128]).int()

    def operands(self) -> tuple[Operand, ...]:
        inputs = [Operand(name, "uint8") for name in "qkv"]
        if self.mask is not None:
            inputs.append(Operand("mask", self.mask.dtype))
        return (*inputs, Operand("numbers", "int32"), Operand("y", "uint8", write=True))

    def extensions(self) -> frozenset[str]:
        return self.dot.extensions()

    def flops(self) -> int:
        return 2 * self.batch * self.heads * self.queries * self.keys * (self.depth + self.value_depth)

    def describe(self) -> str:
        return f"{self.name} {self.width} queries, keys {self.key_rows}, values {self.value_tile}"

    @property
    def width(self) -> int:
        """Queries of a block."""
        return self.dot.lanes * self.query_vectors

    def emit(self, *operands: Access) -> None:
        q, k, v, *mask, numbers, y = operands
        blocks = -(-self.queries // self.width)
        with tasks(self.batch * self.heads * blocks, self.flops()) as task:
            block, head = B.bind(task % blocks), B.bind(task // blocks % self.heads)
            batch = B.bind(task // (blocks * self.heads))
            kv_head = B.bind(head // (self.heads // self.kv_heads))
            first = B.bind(block * self.width)

            def at(access: Access, where: Heads, head: Expr, row: Expr | int = 0) -> Access:
                return access.shifted(batch * where.batch + head * where.head + row * where.row)

            masked = None
            if self.mask is not None:
                m = self.mask
                masked = m, mask[0].shifted(batch % m.period * m.batch + head * m.head + first * m.query)
            body = _Block(self, masked, numbers, first)
            values = at(v, self.v, kv_head)
            body.pack_values(values)

            def run(count: int) -> None:
                body.pack_queries(at(q, self.q, head, first), count)
                body.scores(at(k, self.k, kv_head), count)
                body.softmax(count)
                body.results(at(y, self.y, head, first), count)

            part(block, self.queries, self.width, run)

    @classmethod
    def choose(
        cls,
        *,
        batch: int,
        heads: int,
        kv_heads: int,
        queries: int,
        keys: int,
        depth: int,
        value_depth: int,
        target: CpuTarget,
        q: Heads,
        k: Heads,
        v: Heads,
        y: Heads,
        mask: Mask | None = None,
        causal: bool = False,
    ) -> IntegerAttention:
        """The kernel with tiles chosen for `target`."""
        lanes, registers = target.vector.lanes, target.vector.registers
        most = max(1, min(4, -(-queries // lanes), target.l2 // 2 // (5 * keys * lanes)))
        # As few blocks as possible, each of which packs the values; then as few vectors as these need.
        blocks = -(-queries // (most * lanes))
        query_vectors = -(-queries // (blocks * lanes))
        value_vectors = min(2 if registers >= 32 else 1, -(-value_depth // lanes))
        return cls(
            batch=batch,
            heads=heads,
            kv_heads=kv_heads,
            queries=queries,
            keys=keys,
            depth=depth,
            value_depth=value_depth,
            q=q,
            k=k,
            v=v,
            y=y,
            mask=mask,
            causal=causal,
            dot=DotProduct.choose(lanes, target),
            query_vectors=query_vectors,
            key_rows=best_rows(keys, query_vectors, registers),
            value_tile=(best_rows(min(queries, query_vectors * lanes), value_vectors, registers), value_vectors),
        )


class _Block:
    """The work on one block of queries of one head, and its scratch memory."""

    def __init__(
        self, kernel: IntegerAttention, mask: tuple[Mask, Access] | None, numbers: Access, first: Expr
    ) -> None:
        self.kernel, self.mask, self.first = kernel, mask, first
        self.dot, self.lanes, self.width = kernel.dot, kernel.dot.lanes, kernel.width
        self.depth_steps, self.key_steps = -(-kernel.depth // STEP), -(-kernel.keys // STEP)
        self.columns = -(-kernel.value_depth // self.lanes) * self.lanes
        self.visible: Expr | int = kernel.keys
        self.queries = scratch(self.depth_steps * self.width, "int32")
        self.values = scratch(self.key_steps * self.columns, "int32")
        self.score = scratch(self.key_steps * STEP * self.width)
        self.weights = scratch(self.key_steps * self.width, "int32")
        self.totals = scratch(self.width, "int32")
        self.maxima = Registers(kernel.query_vectors, self.lanes)
        self.score_factor = B.bind(vmath.bits(numbers.load(B.int32(0)), "float32"))
        self.key_zero = B.bind(numbers.load(B.int32(1)))
        self.value_factor = B.bind(vmath.bits(numbers.load(B.int32(2)), "float32"))
        self.value_zero, self.y_zero = B.bind(numbers.load(B.int32(3))), B.bind(numbers.load(B.int32(4)))

    def pack_values(self, v: Access) -> None:
        """values[step][column] = signed bytes of four keys; keys that do not exist are 0 (with any weight)."""
        kernel, lanes = self.kernel, self.lanes
        whole, rest = divmod(kernel.keys, STEP)

        def step(index: Expr, rows: int) -> None:
            for j, count in enumerate(counts(kernel.value_depth, lanes)):
                word = None
                for row in range(rows):
                    at = (index * STEP + row) * kernel.v.row + j * lanes
                    byte = vmath.convert(v.load(at, lanes, count=count), "int32")
                    byte = byte << broadcast(B.int32(8 * row), lanes) if row else byte
                    word = byte if word is None else word | byte
                self.values.store(index * self.columns + j * lanes, word ^ broadcast(B.int32(_BIAS), lanes), lanes)

        if whole:
            with B.serial(whole) as index:
                step(index, STEP)
        if rest:
            step(B.int32(whole), rest)

    def pack_queries(self, q: Access, count: int) -> None:
        """queries[step][query] = four signed bytes of the query; what no query or depth fills is 0."""
        kernel, width, lanes = self.kernel, self.width, self.lanes
        padded = -(-count // lanes) * lanes
        if padded > count:
            with B.serial(self.depth_steps) as step:
                self.queries.store(step * width + padded - lanes, broadcast(B.int32(0), lanes), lanes)
        whole, rest = divmod(kernel.depth, STEP)
        with B.serial(count) as i:

            def word(step: Expr | int) -> Expr:
                return reinterpret(q.load(i * kernel.q.row + step * STEP, STEP), "int32", 1)

            with B.serial(whole) as step:
                self.queries.store(step * width + i, word(step) ^ B.int32(_BIAS))
            if rest:  # reads up to three bytes beyond the row, and drops them
                kept = B.int32((1 << 8 * rest) - 1)
                self.queries.store(whole * width + i, (word(whole) ^ B.int32(_BIAS)) & kept)

    def scores(self, k: Access, count: int) -> None:
        """score[key][query], masked, and the largest score of each query."""
        kernel, dot, lanes, width = self.kernel, self.dot, self.lanes, self.width
        vectors = -(-count // lanes)
        if kernel.causal:  # whole steps, so that the weights of a step are all written
            seen = (self.first + (count + STEP - 1)) // STEP * STEP
            self.visible = B.bind(B.min(seen, kernel.keys))
        corrections = Registers(vectors, lanes, "int32")
        ones = dot.left(broadcast(B.int32(_ONES), lanes))
        for j in range(vectors):
            self.maxima[j] = broadcast(B.float32(_LOWEST), lanes)
            corrections[j] = broadcast(B.int32(0), lanes)
        with B.serial(self.depth_steps) as step:
            for j in range(vectors):
                corrections[j] = dot.add(corrections[j], ones, self._query(step, j))
        for j in range(vectors):
            corrections[j] = corrections[j] * broadcast(self.key_zero, lanes)

        def tile(row: Expr, rows: int) -> None:
            keys = k.shifted(row * kernel.k.row)
            sums = Registers(rows * vectors, lanes, "int32")
            for slot in range(rows * vectors):
                sums[slot] = broadcast(B.int32(0), lanes)
            with B.serial(self.depth_steps) as step:
                queries = [self._query(step, j) for j in range(vectors)]
                for i in range(rows):
                    key = dot.x(keys, i * kernel.k.row + step * STEP)
                    for j in range(vectors):
                        sums[i * vectors + j] = dot.add(sums[i * vectors + j], key, queries[j])
            for i in range(rows):
                for j in range(vectors):
                    value = self._masked(sums[i * vectors + j] - corrections[j], row + i, j, count)
                    self.score.store((row + i) * width + j * lanes, value, lanes)
                    self.maxima[j] = B.max(self.maxima[j], value)

        tiles(kernel.keys, kernel.key_rows, tile, self.visible if kernel.causal else None)

    def softmax(self, count: int) -> None:
        """weights[step][query] = the weights of four keys; totals[query] = the sum of the query's weights."""
        kernel, lanes, width = self.kernel, self.lanes, self.width
        vectors = -(-count // lanes)
        totals = Registers(vectors, lanes, "int32")
        for j in range(vectors):
            totals[j] = broadcast(B.int32(0), lanes)

        def step(index: Expr, rows: int) -> None:
            for j in range(vectors):
                word = None
                for row in range(rows):
                    score = self.score.load((index * STEP + row) * width + j * lanes, lanes)
                    weight = vmath.exp_nonpositive(B.bind(score - self.maxima[j]))
                    weight = round_even(B.bind(weight * broadcast(B.float32(WEIGHT_STEPS), lanes)), lanes)
                    weight = B.bind(weight)
                    totals[j] = totals[j] + weight
                    byte = weight << broadcast(B.int32(8 * row), lanes) if row else weight
                    word = byte if word is None else B.bind(word | byte)
                self.weights.store(index * width + j * lanes, word, lanes)

        rest = kernel.keys % STEP
        whole = self.visible // STEP if kernel.causal else kernel.keys // STEP
        with B.serial(whole) as index:
            step(index, STEP)
        if rest and kernel.causal:
            with B.If(self.visible == kernel.keys), B.Then():
                step(B.int32(kernel.keys // STEP), rest)
        elif rest:
            step(B.int32(kernel.keys // STEP), rest)
        for j in range(vectors):
            self.totals.store(j * lanes, totals[j], lanes)

    def results(self, y: Access, count: int) -> None:
        """y[query] = the sum of weight * (value - zero) over the keys, over the query's total."""
        kernel, dot, lanes, width = self.kernel, self.dot, self.lanes, self.width
        rows, most = kernel.value_tile
        steps = (self.visible + (STEP - 1)) // STEP if kernel.causal else self.key_steps
        valid = counts(kernel.value_depth, lanes)

        def columns(start: int, vectors: int) -> None:
            def tile(row: Expr, rows: int) -> None:
                sums = Registers(rows * vectors, lanes, "int32")
                for slot in range(rows * vectors):
                    sums[slot] = broadcast(B.int32(0), lanes)
                with B.serial(steps) as step:
                    values = [self._value(step, start + j) for j in range(vectors)]
                    for i in range(rows):
                        weight = self.weights.load(step * width + row + i, lanes, stride=0)
                        weights = dot.left(B.bind(weight))
                        for j in range(vectors):
                            sums[i * vectors + j] = dot.add(sums[i * vectors + j], weights, values[j])
                for i in range(rows):
                    total = B.bind(self.totals.load(row + i))
                    share = B.bind(self.value_factor / B.cast(total, "float32"))
                    share = broadcast(B.bind(B.Select(total == 0, B.float32(0), share)), lanes)
                    zero = broadcast(B.bind(total * self.value_zero), lanes)
                    for j in range(vectors):
                        real = B.bind(vmath.convert(sums[i * vectors + j] - zero, "float32") * share)
                        limit = broadcast(B.float32(512), lanes)
                        inside = B.bind(B.min(B.max(fence(real), -limit), limit))
                        integer = round_even(inside, lanes) + broadcast(self.y_zero, lanes)
                        low, high = broadcast(B.int32(0), lanes), broadcast(B.int32(255), lanes)
                        value = vmath.convert(B.bind(B.min(B.max(integer, low), high)), "uint8")
                        at = (row + i) * kernel.y.row + (start + j) * lanes
                        y.store(at, value, lanes, count=valid[start + j])

            tiles(count, rows, tile)

        for start in range(0, len(valid), most):
            columns(start, min(most, len(valid) - start))

    def _query(self, step: Expr, j: int) -> tuple[Expr, ...]:
        word = self.queries.load(step * self.width + j * self.lanes, self.lanes)
        return self.dot.right(B.bind(reinterpret(word, "int8", STEP * self.lanes)))

    def _value(self, step: Expr, j: int) -> tuple[Expr, ...]:
        word = self.values.load(step * self.columns + j * self.lanes, self.lanes)
        return self.dot.right(B.bind(reinterpret(word, "int8", STEP * self.lanes)))

    def _masked(self, sums: Expr, key: Expr, j: int, count: int) -> Expr:
        """Sums of products as scores, those of hidden keys -inf."""
        lanes = self.lanes
        score = fence(B.bind(vmath.convert(sums, "float32") * broadcast(self.score_factor, lanes)))
        if self.mask is not None:
            where, values = self.mask
            at = key * where.key
            if where.query == 0:
                element = values.load(at)
                if where.dtype == "bool":
                    element = B.Select(element, B.float32(0), B.float32(-float("inf")))
                score = score + broadcast(B.bind(element), lanes)
            else:
                score = score + values.load(at + j * lanes, lanes, count=counts(count, lanes)[j])
        if self.kernel.causal:
            query = broadcast(self.first + j * lanes, lanes) + B.ramp(B.int32(0), 1, lanes)
            hidden = broadcast(B.float32(-float("inf")), lanes)
            score = vmath.select(broadcast(key, lanes) <= query, B.bind(score), hidden)
        return B.bind(score)
