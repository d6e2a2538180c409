"""What values an option may take in a search: declared where the option is, as `field(metadata=search(Range(...)))`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import InvalidInput

_KEY = "fxpress.search"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included: whole ones if both are, in multiples of `step` if given.

    `log` draws their logarithms evenly. Raises InvalidInput unless low <= high and, with `log`, low > 0.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise InvalidInput(f"range must have low <= high, not {self.low!r} and {self.high!r}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise InvalidInput(f"logarithmic range must have low > 0 and no step, not {self}")
        if self.step is not None and self.step <= 0:
            raise InvalidInput(f"step of a range must be positive, not {self.step!r}")

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of a few numbers, names or None. Raises InvalidInput for none."""

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise InvalidInput("choice must have at least one option")

    def __contains__(self, value: object) -> bool:
        return value in self.options


def search(values: Range | Choice) -> dict[str, Any]:
    """The metadata of a dataclass field whose values may be searched."""
    return {_KEY: values}


def space_of(options: type) -> Mapping[str, Range | Choice]:
    """The searchable fields of a dataclass of options, by name."""
    return {field.name: field.metadata[_KEY] for field in fields(options) if _KEY in field.metadata}
