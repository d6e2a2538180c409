"""What an index map is: a function that states ties and one that gives an op's numbers anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch.fx import Node

from .ties import Axis, Indices, Ties


class Kept(Protocol):
    """Which indices of an axis are left."""

    def indices(self, axis: Axis) -> Indices:
        """The indices of the axis that are left, in order."""

    def count(self, axis: Axis) -> int:
        """How many are left."""


StateTies = Callable[[Ties, Node, Mapping[str, Any]], None]
MakeLiterals = Callable[[Kept, Node, Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class IndexMap:
    """How an op's operands and results depend on each other. `literals` is None where no argument counts indices."""

    ties: StateTies
    literals: MakeLiterals | None = None
