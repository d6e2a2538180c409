"""The target `systolic{rows=16,cols=16,dataflow=both}`: an Architecture to compile for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from ...target import Target
from .architecture import Architecture


@dataclass(frozen=True)
class SystolicTarget(Target):
    """A systolic array. Options are those of `Architecture.parse`: none is 16 by 16, `preset=edge` 8 by 8."""

    kind: ClassVar[str] = "systolic"
    backend: ClassVar[str] = "systolic"
    modelled: ClassVar[bool] = True
    architecture: Architecture

    @property
    def width_step(self) -> int:
        return self.architecture.columns

    def options(self) -> dict[str, object]:
        return {field.name: getattr(self.architecture, field.name) for field in fields(Architecture)}

    @classmethod
    def of_options(cls, options: Mapping[str, str]) -> SystolicTarget:
        return cls(Architecture.parse(",".join(f"{name}={value}" for name, value in options.items())))
