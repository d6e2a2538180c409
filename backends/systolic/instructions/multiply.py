"""MULTIPLY: accumulators (+)= activations x weights, with windows addressed where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..architecture import ACCUMULATOR_PIECES, Architecture, Memory, Unit
from ..timing import output_stationary_latency, weight_stationary_latency
from .base import Access, Instruction, Level, Traffic, flag, grid, number, pixel_runs, span

if TYPE_CHECKING:
    from ..simulator.memories import Machine

EXACT_TERMS = 1024  # so many products of two bytes sum to at most 2^24, which float32 holds exactly


@dataclass(frozen=True, kw_only=True)
class Multiply(Instruction):
    """accumulators[accumulator + n*stride_output + p] (+)= sum over window and channels, for n < outputs, p < pixels.

    Pixel p (row p / width, column p % width) reads the activation words activation + row*stride_row +
    column*stride_pixel + y*stride_ky + x*stride_kx + b for y < ky, x < kx, b < blocks. Block n of C output channels
    reads the weight words weight + n*K + ((y*kx + x)*blocks + b)*C + c, K = ky*kx*blocks*C, of which word c belongs to
    input channel c of its block and lane j to output channel j. Sums are int32, modulo 2^32.
    """

    opcode: ClassVar[int] = 2
    mnemonic: ClassVar[str] = "multiply"
    unit: ClassVar[Unit] = Unit.ARRAY

    activation: int = number(24, "activation word of the first window's first element")
    weight: int = number(24, "first weight word")
    accumulator: int = number(24, "accumulator word of the first pixel")
    ky: int = number(8, "rows of the window", default=1)
    kx: int = number(8, "columns of the window", default=1)
    blocks: int = number(16, "blocks of C input channels", default=1)
    stride_ky: int = number(24, "activation words from one window row to the next", signed=True)
    stride_kx: int = number(24, "activation words from one window column to the next", signed=True)
    width: int = number(16, "pixels in a row", default=1)
    stride_pixel: int = number(24, "activation words from one pixel of a row to the next", signed=True)
    stride_row: int = number(24, "activation words from one row's first pixel to the next row's", signed=True)
    pixels: int = number(16, "pixels in all; the last row may be short", default=1)
    outputs: int = number(16, "blocks of C output channels", default=1)
    stride_output: int = number(24, "accumulator words from one output block to the next")
    accumulate: bool = flag("add to the accumulators instead of replacing them")
    stationary: bool = flag("weights stay in the array while pixels pass, instead of sums staying")

    @property
    def window(self) -> tuple[Level, Level]:
        """The levels of a window, outermost first."""
        return (self.ky, self.stride_ky), (self.kx, self.stride_kx)

    def terms(self, columns: int) -> int:
        """K: products in a sum."""
        return self.ky * self.kx * self.blocks * columns

    def multiplications(self, architecture: Architecture) -> int:
        """Products of this instruction, those with padded channels included."""
        return self.pixels * self.outputs * architecture.columns * self.terms(architecture.columns)

    def check(self, architecture: Architecture) -> None:
        self.check_fields(architecture)
        self.check_counts("ky", "kx", "blocks", "width", "pixels", "outputs")
        dataflow = "ws" if self.stationary else "os"
        if architecture.dataflow not in (dataflow, "both"):
            self.refuse("stationary", f"{not self.stationary} on a machine with dataflow={architecture.dataflow}")
        if self.outputs > 1 and self.stride_output < self.pixels:
            self.refuse("stride_output", f"at least pixels={self.pixels}, so that no sum is written twice")
        for first, rows, columns in pixel_runs(self.pixels, self.width):
            levels = ((rows, self.stride_row), (columns, self.stride_pixel), *self.window)
            low, high = span(self.activation + first * self.stride_row, *levels, words=self.blocks)
            self.check_inside("activation", Memory.ACTIVATIONS, low, high, architecture)
        terms = self.terms(architecture.columns)
        self.check_inside("weight", Memory.WEIGHTS, self.weight, self.weight + self.outputs * terms, architecture)
        low, high = span(self.accumulator, (self.outputs, self.stride_output), words=self.pixels)
        self.check_inside("accumulator", Memory.ACCUMULATORS, low, high, architecture)

    def execute(self, machine: Machine) -> None:
        columns = machine.architecture.columns
        terms = self.terms(columns)
        windows = np.empty((self.pixels, terms), np.float32)
        for first, rows, width in pixel_runs(self.pixels, self.width):
            start = self.activation + first * self.stride_row
            levels = ((rows, self.stride_row), (width, self.stride_pixel), *self.window)
            view = machine.view(Memory.ACTIVATIONS, start, *levels, words=self.blocks)
            begin = first * self.width
            windows[begin : begin + rows * width].reshape(view.shape)[...] = view
        weights = machine.view(Memory.WEIGHTS, self.weight, (self.outputs, terms), (terms, 1))
        products = exact_product(windows, weights.transpose(1, 0, 2).reshape(terms, -1).astype(np.float32))
        sums = products.reshape(self.pixels, self.outputs, columns).transpose(1, 0, 2)
        planes = ((self.outputs, self.stride_output), (self.pixels, 1))
        target = machine.view(Memory.ACCUMULATORS, self.accumulator, *planes)
        target[...] = target + sums if self.accumulate else sums

    def issue_cycles(self, architecture: Architecture) -> int:
        rows, terms = architecture.rows, self.terms(architecture.columns)
        if self.stationary:
            return rows + self.outputs * (terms // rows) * max(self.pixels, rows)
        return -(-self.pixels // rows) * self.outputs * terms

    def done_cycles(self, architecture: Architecture) -> int:
        latency = weight_stationary_latency if self.stationary else output_stationary_latency
        return self.issue_cycles(architecture) + latency(architecture)

    def mode(self) -> int:
        return int(self.stationary)

    def traffic(self, architecture: Architecture) -> Traffic:
        rows, columns = architecture.rows, architecture.columns
        terms, sums = self.terms(columns), self.pixels * self.outputs
        if self.stationary:
            slices = terms // rows  # each passes all pixels, and adds to what the slices before it left
            read, weights = slices * sums, self.outputs * terms
            added = (slices - 1 + self.accumulate) * sums
            written = slices * sums
        else:
            tiles = -(-self.pixels // rows) * self.outputs
            read, weights = tiles * rows * terms // columns, tiles * terms
            added, written = self.accumulate * sums, sums
        return {
            (Memory.ACTIVATIONS, "read"): read * columns,
            (Memory.WEIGHTS, "read"): weights * columns,
            (Memory.ACCUMULATORS, "read"): added * ACCUMULATOR_PIECES * columns,
            (Memory.ACCUMULATORS, "write"): written * ACCUMULATOR_PIECES * columns,
        }

    def accesses(self, architecture: Architecture) -> list[Access]:
        window = (*self.window, (self.blocks, 1))
        activations = [
            grid(
                self.activation + first * self.stride_row, (rows, self.stride_row), (width, self.stride_pixel), *window
            )
            for first, rows, width in pixel_runs(self.pixels, self.width)
        ]
        weights = grid(self.weight, (self.outputs * self.terms(architecture.columns), 1))
        sums = grid(self.accumulator, (self.outputs, self.stride_output), (self.pixels, 1))
        found = [Access(Memory.ACTIVATIONS, addresses, write=False) for addresses in activations]
        found.append(Access(Memory.WEIGHTS, weights, write=False))
        if self.accumulate:
            found.append(Access(Memory.ACCUMULATORS, sums, write=False))
        return [*found, Access(Memory.ACCUMULATORS, sums, write=True)]


def exact_product(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.int32]:
    """left @ right of byte values, modulo 2^32, at the speed of float32: each partial sum is an exact integer."""
    total = np.zeros((left.shape[0], right.shape[1]), np.int32)
    for start in range(0, left.shape[1], EXACT_TERMS):
        total += (left[:, start : start + EXACT_TERMS] @ right[start : start + EXACT_TERMS]).astype(np.int32)
    return total
