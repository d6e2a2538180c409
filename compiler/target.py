"""Targets: data that describes where code runs, parsed from and printed as one string."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from .errors import InvalidInput


class Target(ABC):
    """Where code runs. `Target.parse("cpu{isa=avx2,cores=4}")` and `str(target)` are inverse to each other.

    Each kind is a frozen dataclass, registered under its `kind` in the registry ("targets", the entry-point group
    `fxpress.targets`). `backend` is the name of the backend that compiles for it. Calls on a `modelled` target are not
    timed: a model of the machine says their seconds and joules, and nothing of memory in use.
    """

    kind: ClassVar[str]
    backend: ClassVar[str]
    modelled: ClassVar[bool] = False

    @abstractmethod
    def options(self) -> Mapping[str, object]:
        """What stands between the braces of the target's text."""

    @classmethod
    @abstractmethod
    def of_options(cls, options: Mapping[str, str]) -> Target:
        """The target with these options, given as texts. Raises InvalidInput naming the wrong one."""

    @property
    def width_step(self) -> int:
        """What the widths of layers should be multiples of: how many channels are computed at once."""
        return 1

    def __str__(self) -> str:
        return f"{self.kind}{{{','.join(f'{name}={value}' for name, value in self.options().items())}}}"

    @staticmethod
    def parse(text: str | Target) -> Target:
        """Read a target such as `cpu` or `cpu{isa=avx2,cores=2}`; its kind says what it is when options are not given.

        Raises InvalidInput when the text does not parse, names an unknown kind or option or a value out of range.
        """
        from .registry import entries, lookup

        if isinstance(text, Target):
            return text
        match = re.fullmatch(r"\s*(\w+)\s*(?:\{(.*)\})?\s*", text) if isinstance(text, str) else None
        if match is None:
            raise InvalidInput(f"target must look like 'cpu' or 'cpu{{isa=avx2}}', not {text!r}")
        kind, body = match.group(1), match.group(2) or ""
        if kind not in entries("targets"):
            raise InvalidInput(f"target kind must be one of {sorted(entries('targets'))}, not {kind!r}")
        options: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in body.split(","))):
            name, _, value = (part.strip() for part in item.partition("="))
            if name in options:
                raise InvalidInput(f"target option {name} must be given once, not twice in {text!r}")
            options[name] = value
        made: Target = lookup("targets", kind).of_options(options)
        return made
