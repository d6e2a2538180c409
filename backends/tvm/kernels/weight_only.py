"""Linear layers whose weights are kept in 4, 8 or 16 bits and multiplied as float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from .base import Access, Expr, Operand, Registers, broadcast, scratch
from .gemm import CHUNK, best_rows, rows_cycles, zeros
from .linear import Linear
from .linear_shape import LinearShape
from .stored_weights import StoredWeight
from .vmath import convert

_DIRECT_ROWS = 16  # up to so many rows, weights are unpacked for each row tile; beyond, once into memory


@dataclass(frozen=True, kw_only=True)
class PackedLinear(Linear):
    """A linear layer for a few rows: weights are unpacked in registers, each group's scale multiplies its sums.

    Operands: those of the shape, with `stored.operands()` in place of the weight.
    """

    name: ClassVar[str] = "packed-linear"

    stored: StoredWeight

    def operands(self) -> tuple[Operand, ...]:
        return _operands(self.shape, self.stored)

    def pack(self, weight: torch.Tensor, *values: torch.Tensor) -> Any:
        """The weight's operands, of the stored elements [n, k] and the scales and zeros [n, groups]."""
        return self.stored.pack(weight, self.width, *values)

    def describe(self) -> str:
        return f"packed-linear {self.stored.dtype} {self.tile_rows}x{self.tile_vectors}"

    def weight(self, named: dict[str, Access], panel: Expr, piece: Expr) -> dict[str, Access]:
        return self.stored.panel(named, panel, self.width)

    def accumulate(
        self, tile: Registers, rows: int, vectors: int, x: Access, weight: dict[str, Access], number: Expr
    ) -> None:
        stored, width, lanes = self.stored, self.width, self.lanes

        def span(group: Expr, first: Expr, length: int) -> None:
            """Add the products of `length` elements from number `first` of a group."""
            words = weight["weight"].shifted((group * stored.group_words + first // stored.per_word) * width)
            here = x.shifted(group * stored.group + first)
            sums = zeros(rows, vectors, lanes)
            zero = _columns(weight.get("zero"), group * width, vectors, lanes)

            def add(k: Expr, columns: list[Expr]) -> None:
                columns = [B.bind(c - z) for c, z in zip(columns, zero, strict=True)] if zero else columns
                columns = columns if zero or rows == 1 else [B.bind(c) for c in columns]
                for i in range(rows):
                    value = broadcast(B.bind(here.load(i * self.shape.x.inner + k)), lanes)
                    for j in range(vectors):
                        slot = i * vectors + j
                        sums[slot] = sums[slot] + value * columns[j]

            stored.each(words, length, width, lanes, vectors, add)
            scale = _columns(weight.get("scale"), group * width, vectors, lanes)
            for slot in range(rows * vectors):
                tile[slot] = tile[slot] + (sums[slot] * scale[slot % vectors] if scale else sums[slot])

        _spans(stored, CHUNK, span)

    @classmethod
    def choose_packed(cls, shape: LinearShape, stored: StoredWeight, target: CpuTarget) -> Self:
        """The kernel with its tile chosen for `target`."""
        lanes, registers = target.vector.lanes, target.vector.registers

        def cycles(vectors: int) -> float:
            rows = _rows(shape, vectors, registers)
            panels = -(-shape.n // (vectors * lanes))
            tiles = shape.outer * -(-shape.inner // rows)
            unpacking = 1.5 * vectors * -(-shape.inner // rows)
            shares = -(-panels // target.cores) * target.cores
            return shares * tiles * (rows_cycles(shape.inner, rows, vectors) + unpacking)

        vectors = min((4, 3, 2, 1), key=cycles)
        rows = _rows(shape, vectors, registers)
        tiles = shape.outer * -(-shape.inner // rows)
        return cls(shape=shape, lanes=lanes, tile_rows=rows, tile_vectors=vectors, block=tiles, stored=stored)


@dataclass(frozen=True, kw_only=True)
class ExpandedLinear(Linear):
    """A linear layer for many rows: each panel of weights is unpacked into scratch memory and used from there.

    Operands: those of the shape, with `stored.operands()` in place of the weight.
    """

    name: ClassVar[str] = "expanded-linear"

    stored: StoredWeight

    def operands(self) -> tuple[Operand, ...]:
        return _operands(self.shape, self.stored)

    def pack(self, weight: torch.Tensor, *values: torch.Tensor) -> Any:
        """The weight's operands, of the stored elements [n, k] and the scales and zeros [n, groups]."""
        return self.stored.pack(weight, self.width, *values)

    def describe(self) -> str:
        return super().describe().replace("linear", f"expanded-linear {self.stored.dtype}", 1)

    def panel(self, named: dict[str, Access], panel: Expr, first: Expr, tiles: int, piece: Expr) -> None:
        stored, width, lanes = self.stored, self.width, self.lanes
        panel_of = stored.panel(named, panel, width)
        depth = self.shape.k // self.slices
        expanded = scratch(depth * width)
        many = stored.groups > 1

        def span(number: Expr, first: Expr, length: int) -> None:
            here = expanded.shifted((number * stored.group + first) * width)
            group = B.bind(number + piece * (stored.groups // self.slices) if many else number)
            first = first if many else B.bind(first + piece * depth)
            words = panel_of["weight"].shifted((group * stored.group_words + first // stored.per_word) * width)
            zero = _columns(panel_of.get("zero"), group * width, self.tile_vectors, lanes)
            scale = _columns(panel_of.get("scale"), group * width, self.tile_vectors, lanes)

            def write(k: Expr, columns: list[Expr]) -> None:
                for j, column in enumerate(columns):
                    value = column - zero[j] if zero else column
                    here.store(k * width + j * lanes, value * scale[j] if scale else value, lanes)

            stored.each(words, length, width, lanes, self.tile_vectors, write)

        _spans(replace(stored, k=depth, group=min(stored.group, depth)), depth, span)
        super().panel({**named, "weight": expanded}, panel, first, tiles, piece)

    def weight(self, named: dict[str, Access], panel: Expr, piece: Expr) -> dict[str, Access]:
        return {"weight": named["weight"]}

    @classmethod
    def choose_expanded(cls, shape: LinearShape, stored: StoredWeight, target: CpuTarget) -> Self:
        """The kernel with the tile and loop order of a float32 layer; slices of the depth keep a panel in L2."""
        linear = Linear.choose(shape, target)
        slices = _slices(stored, max(linear.slices, -(-8 * shape.k * linear.width // target.l2)))
        shares = linear.shares if slices == linear.slices else -(-shape.n // linear.width)
        options = {field.name: getattr(linear, field.name) for field in fields(Linear)}
        return cls(**options | {"slices": slices, "shares": shares, "prefetch": False}, stored=stored)


def _slices(stored: StoredWeight, least: int) -> int:
    """Into how many equal parts, `least` or a few more, the depth is cut between groups or words; 1 if into none."""
    unit = stored.group if stored.groups > 1 else stored.per_word
    return next((slices for slices in range(least, 2 * least + 1) if stored.k % (slices * unit) == 0), 1)


def stored_linear(shape: LinearShape, stored: StoredWeight, target: CpuTarget) -> PackedLinear | ExpandedLinear:
    """The kernel for a layer with a stored weight."""
    if shape.m <= _DIRECT_ROWS:
        return PackedLinear.choose_packed(shape, stored, target)
    return ExpandedLinear.choose_expanded(shape, stored, target)


def _operands(shape: LinearShape, stored: StoredWeight) -> tuple[Operand, ...]:
    return tuple(
        replaced
        for operand in shape.operands()
        for replaced in (stored.operands() if operand.name == "weight" else (operand,))
    )


def _rows(shape: LinearShape, vectors: int, registers: int) -> int:
    """Rows of a tile: beside its sums, the words of each vector and a look-up table stay in registers."""
    return best_rows(shape.inner, vectors, max(registers - vectors - 1, 2 * vectors + 1))


def _columns(values: Access | None, at: Expr, vectors: int, lanes: int) -> list[Expr]:
    """A vector of float32 for each vector of columns; none without `values`."""
    if values is None:
        return []
    return [B.bind(convert(values.load(at + j * lanes, lanes), "float32")) for j in range(vectors)]


def _spans(stored: StoredWeight, most: int, body: Callable[[Expr, Expr, int], None]) -> None:
    """Run `body(group, first, length)` over all elements in runs of at most `most` that each lie in one group."""

    def group(number: Expr, length: int) -> None:
        runs, rest = divmod(length, most)
        if runs:
            with B.serial(runs) as run:
                body(number, B.bind(run * most), most)
        if rest:
            body(number, B.int32(runs * most), rest)

    whole = stored.k // stored.group
    if whole:
        with B.serial(whole) as number:
            group(number, stored.group)
    if stored.k % stored.group:
        group(B.int32(whole), stored.k % stored.group)
