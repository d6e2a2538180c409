"""Transposed convolution: every phase of the output grid is a small direct convolution of stride 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ....cpu import CpuTarget
from .base import Access
from .conv import DirectConv
from .conv_shape import ConvKernel, ConvShape


@dataclass(frozen=True)
class Phase:
    """The output pixels (row + stride * i, column + stride * j): which kernel taps reach them, and their convolution.

    `rows` and `columns` number the taps in the order in which the convolution meets them. There may be none: the
    pixels are then the activation of bias plus residual.
    """

    row: int
    column: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    conv: DirectConv


@dataclass(frozen=True)
class ConvTranspose(ConvKernel):
    """Transposed convolution in one or two dimensions.

    `shape` has the stride, dilation, padding and groups of the transposed convolution, and the height and width of its
    output (so the output padding is implied). `reads` says how far around the input it reads.
    """

    phases: tuple[Phase, ...]

    name: ClassVar[str] = "conv-transpose"

    @classmethod
    def choose(cls, shape: ConvShape, target: CpuTarget) -> ConvTranspose:
        """The kernel whose phases have the tiles that suit `target`."""
        return cls(shape, tuple(_phases(shape, target)))

    @staticmethod
    def reads(shape: ConvShape) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last row, and first and last column, of x that may be read; beyond the input they must be zero."""
        return _reads(shape, 0, shape.height), _reads(shape, 1, shape.width)

    def flops(self) -> int:
        """Operations of the multiply-adds, those with the input's halo included."""
        return sum(phase.conv.flops() for phase in self.phases)

    def describe(self) -> str:
        """The number of phases and the first one's tile."""
        return f"{self.name} phases={len(self.phases)} {self.phases[0].conv.tile.text()}"

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Lay out `weight` [ic, oc / groups, kh, kw] as this kernel reads it: the phases one after another, flat."""
        shape = self.shape
        ic, oc = shape.ic // shape.groups, shape.oc // shape.groups
        expected = (shape.ic, oc, *shape.kernel)
        if tuple(weight.shape) != expected:
            raise ValueError(f"weight must have shape {expected}, not {tuple(weight.shape)}")
        forward = weight.reshape(shape.groups, ic, oc, *shape.kernel).transpose(1, 2)
        forward = forward.reshape(shape.oc, ic, *shape.kernel)
        return torch.cat(
            [phase.conv.pack(forward[:, :, list(phase.rows)][:, :, :, list(phase.columns)]) for phase in self.phases]
        )

    def emit(self, *operands: Access) -> None:
        """Emit one direct convolution a phase."""
        x, weight, bias, *residual, y = operands
        at = 0
        for phase in self.phases:
            here = [x, weight.shifted(at), bias]
            if self.shape.residual_strides is not None:
                _, row, column = self.shape.residual_strides
                here.append(residual[0].shifted(phase.row * row + phase.column * column))
            _, row, column = self.shape.y_strides
            phase.conv.emit(*here, y.shifted(phase.row * row + phase.column * column))
            at += phase.conv.packed_elements


def _phases(shape: ConvShape, target: CpuTarget) -> Iterator[Phase]:
    for row in range(min(shape.stride[0], shape.height)):
        for column in range(min(shape.stride[1], shape.width)):
            rows, top = _taps(shape, 0, row)
            columns, left = _taps(shape, 1, column)
            if not rows or not columns:
                rows, columns = (), ()
            conv = replace(
                shape,
                height=-(-(shape.height - row) // shape.stride[0]),
                width=-(-(shape.width - column) // shape.stride[1]),
                kernel=(len(rows), len(columns)),
                stride=(1, 1),
                dilation=(_step(shape, 0), _step(shape, 1)),
                padding=(-top, -left),
                y_strides=_spread(shape.y_strides, shape.stride),
                residual_strides=shape.residual_strides and _spread(shape.residual_strides, shape.stride),
            )
            yield Phase(row, column, rows, columns, DirectConv.choose(conv, target))


def _taps(shape: ConvShape, axis: int, phase: int) -> tuple[tuple[int, ...], int]:
    """The taps that reach the outputs of `phase`, by growing place in x, and the place of the first for output 0.

    Output o = phase + stride * q takes input i = (o + padding - tap * dilation) / stride where that is whole.
    """
    stride, dilation, padding = shape.stride[axis], shape.dilation[axis], shape.padding[axis]
    places = {
        tap: (phase + padding - tap * dilation) // stride
        for tap in range(shape.kernel[axis])
        if (phase + padding - tap * dilation) % stride == 0
    }
    taps = tuple(sorted(places, key=lambda tap: places[tap]))
    return taps, places[taps[0]] if taps else 0


def _step(shape: ConvShape, axis: int) -> int:
    """How far apart in x the taps of one phase lie."""
    return shape.dilation[axis] // math.gcd(shape.dilation[axis], shape.stride[axis])


def _spread(strides: tuple[int, int, int], stride: tuple[int, int]) -> tuple[int, int, int]:
    return strides[0], strides[1] * stride[0], strides[2] * stride[1]


def _reads(shape: ConvShape, axis: int, extent: int) -> tuple[int, int]:
    first, last = 0, 0
    for phase in range(min(shape.stride[axis], extent)):
        taps, place = _taps(shape, axis, phase)
        if taps:
            outputs = -(-(extent - phase) // shape.stride[axis])
            first = min(first, place)
            last = max(last, place + (len(taps) - 1) * _step(shape, axis) + outputs - 1)
    return first, last
