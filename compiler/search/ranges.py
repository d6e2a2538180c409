"""What values an option may take in a search: declared where the option is, as `field(metadata=search(Range(...)))`.

Options that a search leaves alone say why: `field(metadata=not_searched("it follows from the target"))`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
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

    def nearest(self, value: float) -> float:
        """The end that lies nearest to what is outside; what is inside as it is."""
        return min(max(value, self.low), self.high)

    def narrowed(self, low: float | None = None, high: float | None = None) -> Range:
        """The part of it from `low` to `high`. Raises InvalidInput for what is outside."""
        for end in (low, high):
            if end is not None and end not in self:
                raise InvalidInput(f"part of a range must be in {self}, not {end!r}")
        return replace(self, low=self.low if low is None else low, high=self.high if high is None else high)


@dataclass(frozen=True)
class Choice:
    """One of a few numbers, names or None. Raises InvalidInput for none."""

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise InvalidInput("choice must have at least one option")

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def nearest(self, value: Any) -> Any:
        """The value, or the first option where it is none."""
        return value if value in self else self.options[0]

    def without(self, *options: Any) -> Choice:
        """The others."""
        return Choice(tuple(option for option in self.options if option not in options))


Space = Mapping[str, Range | Choice]


def search(values: Range | Choice) -> dict[str, Any]:
    """The metadata of a dataclass field whose values may be searched."""
    return {_KEY: values}


def not_searched(why: str) -> dict[str, Any]:
    """The metadata of a dataclass field that a search leaves alone, with the reason."""
    return {_KEY: why}


def space_of(options: type, *names: str) -> Space:
    """The searchable fields of a dataclass of options, by name; or only those named. Raises KeyError for others."""
    found = {f.name: f.metadata[_KEY] for f in fields(options) if isinstance(f.metadata.get(_KEY), Range | Choice)}
    return {name: found[name] for name in names or found}


def defaults_of(options: type) -> dict[str, Any]:
    """The fields of a dataclass of options that have defaults, by name."""
    return {f.name: f.default for f in fields(options) if f.default is not MISSING}


def undeclared(options: type) -> list[str]:
    """The fields of a dataclass of options, numbers, texts and switches, that say nothing of searches."""
    plain = {name for kind in ("bool", "int", "float", "str") for name in (kind, f"{kind} | None")} | {"int | str"}
    kinds = {f.name: f.type if isinstance(f.type, str) else inspect.formatannotation(f.type) for f in fields(options)}
    return [f.name for f in fields(options) if kinds[f.name] in plain and _KEY not in f.metadata]
