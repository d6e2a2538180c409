"""What the kernels for 8-bit integers share: vectors of bytes, and the dot product of unsigned with signed ones.

Activations are unsigned in memory (`View.biased`: int8 + 128) and weights signed, because that is what the CPU
multiplies. Sums are 32-bit integers and wrap around; that the final ones fit is proved when a node is lowered. How sums
become results is said in requantization.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from tvm import tirx
from tvm.tirx.script import builder as B

from ....cpu import CpuTarget
from . import gemm
from .base import Access, Expr
from .conv_shape import bounded_lanes
from .vmath import bits, constant, vector_type

STEP = 4  # products that one 32-bit lane sums in a step
LEAST_LANES = 4  # of the narrowest vector that has all the instructions below

# By lanes of 32 bits: the intrinsics of vectors of 128, 256 and 512 bits.
_BYTES_TO_WORDS = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
}
_MULTIPLY_ADD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def integer_lanes(channels: int, target: CpuTarget) -> int:
    """The lanes of the vectors that hold the 32-bit sums of `channels` channels."""
    return max(LEAST_LANES, bounded_lanes(channels, target.vector.lanes))


def pack_steps(weight: torch.Tensor) -> torch.Tensor:
    """Reorder int8 weights [..., width, k] into steps [..., ceil(k / 4), width, 4], zeros where k ends."""
    return gemm.pack_steps(weight, STEP)


def shifted_bias(bias: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The int32 bias of an op whose input is biased: 128 times the sum of each channel's weights is taken away."""
    wide = bias.to(torch.int64) - 128 * weight.to(torch.int64).flatten(1).sum(1)
    return wide.to(torch.int32)  # may wrap around, as the sums that it is added to do


@dataclass(frozen=True)
class DotProduct:
    """Four unsigned bytes times four signed bytes, added to each of `lanes` 32-bit lanes, exactly.

    `extension` names the target's extension that does it in one instruction. Without one the bytes become 16-bit words
    first, because the sums of two products that older CPUs make from bytes saturate, unless `narrow` says that all
    weights are so small that they cannot.
    """

    lanes: int
    extension: str = ""
    narrow: bool = False

    @classmethod
    def choose(cls, lanes: int, target: CpuTarget) -> DotProduct:
        """The fastest way that `target` has."""
        return cls(lanes, next((name for name in ("vnni", "avxvnni") if target.has(name)), ""))

    def for_weights(self, packed: torch.Tensor) -> DotProduct:
        """The same, in the way that suits these weights, packed in steps: those of 7 bits are always narrow."""
        pairs = packed.reshape(-1, 2).to(torch.int16)
        sums = torch.cat([pairs.clamp(min=0).sum(1), -pairs.clamp(max=0).sum(1)])
        largest = int(sums.max()) if len(sums) else 0
        return self if self.extension else replace(self, narrow=255 * largest < 2**15)

    def extensions(self) -> frozenset[str]:
        """The target's extensions that this needs."""
        return frozenset({self.extension} - {""})

    def x(self, x: Access, at: Expr) -> tuple[Expr, ...]:
        """The four bytes of `x` from `at` on, in every lane, as `add` takes them."""
        return self.left(B.broadcast(reinterpret(x.load(at, STEP), "int32", 1), self.lanes))

    def weight(self, weight: Access, at: Expr) -> tuple[Expr, ...]:
        """One step of weights of `lanes` channels, as `pack_steps` lays them out from `at` on, as `add` takes them."""
        return self.right(weight.load(at, STEP * self.lanes))

    def left(self, x: Expr) -> tuple[Expr, ...]:
        """Unsigned bytes, four a lane of an int32 vector, as `add` takes them."""
        if self.extension or self.narrow:
            return (B.bind(reinterpret(x, "int8", STEP * self.lanes)),)
        words = B.bind(reinterpret(x, "uint16", 2 * self.lanes))
        even = words & constant(255, "uint16", 2 * self.lanes)
        odd = words >> constant(8, "uint16", 2 * self.lanes)
        return B.bind(bits(even, "int16")), B.bind(bits(odd, "int16"))

    def right(self, weight: Expr) -> tuple[Expr, ...]:
        """A vector of signed bytes, four a lane, as `add` takes them."""
        if self.extension or self.narrow:
            return (B.bind(weight),)
        words, eight = B.bind(reinterpret(weight, "int16", 2 * self.lanes)), constant(8, "int16", 2 * self.lanes)
        return B.bind((words << eight) >> eight), B.bind(words >> eight)

    def add(self, sums: Expr, x: tuple[Expr, ...], weight: tuple[Expr, ...]) -> Expr:
        """`sums` plus the dot products."""
        result = vector_type("int32", self.lanes)
        if self.extension:
            name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"  # which the older encoding of avxvnni also has
            return tirx.call_llvm_pure_intrin(result, name, sums, *x, *weight)
        if self.narrow:
            words = vector_type("int16", 2 * self.lanes)
            pairs = tirx.call_llvm_pure_intrin(words, _BYTES_TO_WORDS[self.lanes], *x, *weight)
            ones = constant(1, "int16", 2 * self.lanes)
            return sums + tirx.call_llvm_pure_intrin(result, _MULTIPLY_ADD[self.lanes], pairs, ones)
        even, odd = (
            tirx.call_llvm_pure_intrin(result, _MULTIPLY_ADD[self.lanes], a, b) for a, b in zip(x, weight, strict=True)
        )
        return sums + (even + odd)


def reinterpret(x: Expr, element: str, lanes: int) -> Expr:
    """The bits of `x` read as `lanes` of another type."""
    return tirx.reinterpret(vector_type(element, lanes), x)
