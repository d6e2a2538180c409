"""Weights kept in 4, 8 or 16 bits: packed into 32-bit words when the model is compiled, unpacked in registers.

A word holds consecutive elements along k of one column, the first in its lowest bits, and a vector of words holds
adjacent columns. One load therefore gives 2, 4 or 8 vectors of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from .base import Access, Expr, Operand
from .vmath import bits, constant, convert

_WORD = 32
_AHEAD = 2048  # words: how far before its use a word is asked for, as far as memory is slow
_BITS = {"int4": 4, "int8": 8, "bfloat16": 16, "float16": 16}


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """A weight [n, k] whose element (n, i) is (stored - zero[n, i // group]) * scale[n, i // group].

    `dtype` is int4, int8 (stored as signed integers), bfloat16 or float16. Only integers have a scale, and only with
    `zero` do they have zeros. Words lie as [panel of columns][group][word of the group][column of the panel].
    """

    dtype: str
    k: int
    group: int
    zero: bool = False

    @property
    def integer(self) -> bool:
        """Whether elements are scaled integers."""
        return self.dtype.startswith("int")

    @property
    def per_word(self) -> int:
        """Elements in a word."""
        return _WORD // _BITS[self.dtype]

    @property
    def groups(self) -> int:
        """Groups along k; the last may be shorter."""
        return -(-self.k // self.group)

    @property
    def group_words(self) -> int:
        """Words that one column has for a group."""
        return -(-self.group // self.per_word)

    @property
    def bytes_per_column(self) -> int:
        """Bytes that are read for one column."""
        return self.groups * (4 * self.group_words + 4 * self.integer + 2 * self.zero)

    def operands(self) -> tuple[Operand, ...]:
        """The kernel operands that hold the weight."""
        scale = (Operand("scale", "float32"),) if self.integer else ()
        zero = (Operand("zero", "int16"),) if self.zero else ()
        return (Operand("weight", "int32"), *scale, *zero)

    def pack(
        self, stored: torch.Tensor, width: int, scale: torch.Tensor | None = None, zero: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """The operands of a weight for panels of `width` columns.

        `stored` [n, k] is an integer tensor, or of the 16-bit dtype itself; `scale` and `zero` are [n, groups].
        """
        codes = stored.view(torch.int16) if stored.dtype.is_floating_point else stored
        size = _BITS[self.dtype]
        n, panels = stored.shape[0], -(-stored.shape[0] // width)
        whole = torch.zeros(panels * width, self.groups, self.group_words * self.per_word, dtype=torch.int32)
        padded = torch.zeros(n, self.groups * self.group, dtype=torch.int32)
        padded[:, : self.k] = codes.to(torch.int32) & ((1 << size) - 1)
        whole[:n, :, : self.group] = padded.reshape(n, self.groups, self.group)
        elements = whole.reshape(panels, width, self.groups, self.group_words, self.per_word)
        words = torch.zeros(elements.shape[:-1], dtype=torch.int32)
        for e in range(self.per_word):
            words |= elements[..., e] << (size * e)
        parts = [words.permute(0, 2, 3, 1)]
        for values in (scale.to(torch.float32) if scale is not None else None, zero):
            if values is not None:
                columns = torch.zeros(panels * width, self.groups, dtype=values.dtype)
                columns[:n] = values
                parts.append(columns.reshape(panels, width, self.groups).permute(0, 2, 1))
        return tuple(part.contiguous() for part in parts)

    def panel(self, named: dict[str, Access], panel: Expr, width: int) -> dict[str, Access]:
        """The weight's operands, seen from the start of a panel."""
        words, groups = self.groups * self.group_words * width, self.groups * width
        steps = {"weight": words, "scale": groups, "zero": groups}
        return {op.name: named[op.name].shifted(panel * steps[op.name]) for op in self.operands()}

    def unpack(self, word: Expr, element: int, lanes: int) -> Expr:
        """Element number `element` of each word in a vector, as float32, before zero and scale."""
        size = _BITS[self.dtype]
        if self.dtype == "bfloat16":
            high = word & constant(-(1 << 16), "int32", lanes) if element else _left(word, 16, lanes)
            return bits(high, "float32")
        if self.dtype == "float16":
            half = convert(_right(word, 16, lanes) if element else word, "int16")
            return convert(bits(half, "float16"), "float32")
        if size == 4 and lanes == 16:  # one shift and one look-up by the lowest four bits of each lane
            low = _right(word, 4 * element, lanes) if element else word
            return tirx.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", _nibbles(), low)
        top = _WORD - size
        signed = _right(_left(word, top - size * element, lanes), top, lanes)
        return convert(signed, "float32")

    def each(
        self,
        words: Access,
        length: int,
        width: int,
        lanes: int,
        vectors: int,
        body: Callable[[Expr, list[Expr]], None],
    ) -> None:
        """Run `body(k, columns)` for each k below `length`, where `columns` are the elements of `vectors` vectors.

        `words` points at the word of k = 0. The words a few pages on are brought to the cache meanwhile.
        """

        def word(number: Expr, count: int) -> None:
            at = B.bind(number * width)
            loaded = []
            for j in range(vectors):
                words.prefetch(at + (_AHEAD + j * lanes))
                loaded.append(B.bind(words.load(at + j * lanes, lanes)))
            for e in range(count):
                body(B.bind(number * self.per_word + e), [self.unpack(w, e, lanes) for w in loaded])

        whole, rest = divmod(length, self.per_word)
        if whole:
            with B.serial(whole) as number:
                word(number, self.per_word)
        if rest:
            word(B.int32(whole), rest)


def _nibbles() -> Expr:
    """The values of a 4-bit integer in two's complement, by its bits."""
    eight, fifteen = constant(8, "int32", 16), constant(15, "int32", 16)
    return convert(((B.ramp(B.int32(0), 1, 16) + eight) & fifteen) - eight, "float32")


def _left(x: Expr, count: int, lanes: int) -> Expr:
    return x << constant(count, "int32", lanes) if count else x


def _right(x: Expr, count: int, lanes: int) -> Expr:
    return x >> constant(count, "int32", lanes) if count else x
