"""Widths that kernels like, and how wide axes are when groups keep only some of their units."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...target import Target
from .config import AUTO, PruneConfig
from .groups import Group, Groups
from .ties import Axis, Indices

Left = Mapping[Group, int]
"""How many units of each group stay."""


@dataclass(frozen=True)
class Rounding:
    """What numbers of indices are rounded up to: multiples of `multiple`.

    With `narrow` fewer indices than one multiple are rounded up to a power of two, for which there are narrower
    vectors, and units that are a multiple wide by themselves, such as heads, are not rounded at all.
    """

    multiple: int = 1
    narrow: bool = False

    @staticmethod
    def of(config: PruneConfig, target: Target | None) -> Rounding:
        """What a config asks for on a target; "auto" rounds nothing without one."""
        if config.multiple == AUTO:
            return EXACT if target is None else Rounding(target.width_step, narrow=True)
        return Rounding(int(config.multiple))

    def units(self, group: Group, left: int) -> int:
        """The least number of units of at least `left` whose indices are as wanted, or all of them."""
        wanted = left * group.width
        if self.narrow and group.width >= self.multiple:
            step = 1
        else:
            multiple = self.multiple
            if self.narrow and wanted < multiple:
                multiple = min(multiple, 1 << max(0, wanted - 1).bit_length())
            step = multiple // math.gcd(multiple, group.width)
        return min(group.size, max(1, math.ceil(left / step) * step))


EXACT = Rounding()


class Widths:
    """How many indices the axes of a Program have when only some units of its groups are left."""

    def __init__(self, groups: Groups) -> None:
        self._sizes = groups.sizes
        self._parts: dict[Axis, list[tuple[Group, int]]] = defaultdict(list)
        for group in groups.removable:
            for axis, numbers in group.units.items():
                self._parts[axis].append((group, int((numbers >= 0).sum()) // group.size))

    def parts(self, axis: Axis) -> list[tuple[Group, int]]:
        """The groups that the axis has units of, and how many of its indices each unit is."""
        return self._parts.get(axis, [])

    def fixed(self, axis: Axis) -> int:
        """How many indices of the axis belong to no group."""
        return self._sizes[axis] - sum(group.size * width for group, width in self.parts(axis))

    def at(self, left: Left) -> KeptFirst:
        """The sizes of all axes; groups that `left` does not name are whole."""
        return KeptFirst(self, left)


@dataclass(frozen=True)
class KeptFirst:
    """A `Kept` for shapes alone: each axis keeps the first of its indices, as many as units that are left have."""

    widths: Widths
    left: Left

    def count(self, axis: Axis) -> int:
        """How many indices are left."""
        parts = self.widths.parts(axis)
        return self.widths.fixed(axis) + sum(self.left.get(group, group.size) * width for group, width in parts)

    def indices(self, axis: Axis) -> Indices:
        """The first of them."""
        return np.arange(self.count(axis))
