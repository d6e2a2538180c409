"""Geometry of the page's pictures: a treemap and a roofline, as numbers that the template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .explanation import Layer
from .probe import Peaks

T = TypeVar("T")


@dataclass(frozen=True)
class Box(Generic[T]):
    """A rectangle of a treemap and what it stands for."""

    item: T
    x: float
    y: float
    width: float
    height: float


def treemap(items: Sequence[tuple[T, float]], x: float, y: float, width: float, height: float) -> list[Box[T]]:
    """Boxes that fill the rectangle, of areas in proportion to the items' positive weights, largest first.

    Boxes are as square as laying them out in rows along the shorter side allows (the squarified treemap).
    """
    rest = sorted(((item, weight) for item, weight in items if weight > 0), key=lambda entry: -entry[1])
    scale = width * height / sum(weight for _, weight in rest) if rest else 0.0
    boxes: list[Box[T]] = []
    while rest:
        side = min(width, height)
        count = _row_length([weight * scale for _, weight in rest], side)
        row, rest = rest[:count], rest[count:]
        thickness = sum(weight for _, weight in row) * scale / side
        offset = 0.0
        for item, weight in row:
            length = weight * scale / thickness
            if width >= height:
                boxes.append(Box(item, x, y + offset, thickness, length))
            else:
                boxes.append(Box(item, x + offset, y, length, thickness))
            offset += length
        if width >= height:
            x, width = x + thickness, max(width - thickness, 1e-9)
        else:
            y, height = y + thickness, max(height - thickness, 1e-9)
    return boxes


def _row_length(areas: Sequence[float], side: float) -> int:
    """How many of the areas make a row whose worst box is closest to a square."""
    best, best_count, total = math.inf, 1, 0.0
    for count, area in enumerate(areas, 1):
        total += area
        thickness = total / side
        lengths = (areas[0] / thickness, areas[count - 1] / thickness)
        worst = max(max(length / thickness, thickness / length) for length in lengths)
        if worst > best:
            break
        best, best_count = worst, count
    return best_count


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    position: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A layer in the roofline."""

    layer: Layer
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Roofline:
    """Layers by operations per byte (x) and operations per second (y), both logarithmic, under the machine's roof."""

    dots: tuple[Dot, ...]
    roof: tuple[tuple[float, float], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def roofline(layers: Sequence[Layer], peaks: Peaks, width: float, height: float) -> Roofline:
    """The roofline of the layers that compute, in a picture of `width` x `height`; empty when there is none."""
    shown = [layer for layer in layers if layer.flops and layer.bytes and layer.seconds]
    if not shown:
        return Roofline((), (), (), ())
    ridge = peaks.flops_per_second / peaks.bytes_per_second
    intensities = [layer.flops / layer.bytes for layer in shown] + [ridge]
    rates = [layer.flops_per_second for layer in shown] + [peaks.flops_per_second]
    left, right = math.floor(math.log10(min(intensities))), math.ceil(math.log10(max(intensities)) + 0.1)
    bottom, top = math.floor(math.log10(min(rates))), math.log10(max(rates)) + 0.2

    def x_of(intensity: float) -> float:
        return (math.log10(intensity) - left) / (right - left) * width

    def y_of(rate: float) -> float:
        return (top - math.log10(rate)) / (top - bottom) * height

    lowest = max(10.0**left, 10.0**bottom / peaks.bytes_per_second)
    return Roofline(
        tuple(
            Dot(layer, x_of(layer.flops / layer.bytes), y_of(layer.flops_per_second), 3 + 34 * math.sqrt(layer.share))
            for layer in sorted(shown, key=lambda layer: -layer.share)
        ),
        (
            (x_of(lowest), y_of(lowest * peaks.bytes_per_second)),
            (x_of(ridge), y_of(peaks.flops_per_second)),
            (width, y_of(peaks.flops_per_second)),
        ),
        tuple(Tick(x_of(10.0**power), f"{10.0**power:g}") for power in range(left, right + 1)),
        tuple(Tick(y_of(10.0**power), _rate(power)) for power in range(bottom, math.floor(top) + 1)),
    )


def _rate(power: int) -> str:
    return f"{10.0 ** (power - 9):g} GFLOP/s" if power < 12 else f"{10.0 ** (power - 12):g} TFLOP/s"
