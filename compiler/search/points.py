"""One model that a search tried: what was done, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..report.layer_errors import LayerError
from ..report.quantities import option_text
from .footprint import Footprint
from .intervals import Quality
from .objectives import Cost, Objective


@dataclass(frozen=True)
class Point:
    """One model that was tried.

    `candidate` is what its strategy was told, `steps` what was done, in order. `artifact` is the file, `quality` and
    `footprint` what it is worth and costs, `promised` the footprint that was predicted before any training. `refused`
    says why the trial ended early: then there may be no artifact and no quality. `seconds` is how long it took.
    `curve` are the epochs of its trainings, `layers` how far each layer of the original is off. `recipe` is plain data
    with which `fxpress.search.replay` makes the artifact again.
    """

    number: int
    candidate: Mapping[str, Any]
    steps: Sequence[tuple[str, Mapping[str, Any]]]
    artifact: Path | None = None
    quality: Quality | None = None
    footprint: Footprint | None = None
    promised: Footprint | None = None
    refused: str = ""
    seconds: float = 0.0
    curve: Sequence[Mapping[str, Any]] = ()
    layers: Sequence[LayerError] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether it was made, judged and measured."""
        return self.quality is not None and self.footprint is not None

    def value(self, objective: Objective) -> float:
        """What it has of an objective."""
        assert self.quality is not None
        assert self.footprint is not None
        return objective.of(self.footprint) if isinstance(objective, Cost) else self.quality.value

    def describe(self) -> str:
        """What was done, in words."""
        return ", ".join(f"{name}({_options_text(options)})" for name, options in self.steps) or "original"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "number": self.number,
            "candidate": dict(self.candidate),
            "steps": [[name, dict(options)] for name, options in self.steps],
            "artifact": None if self.artifact is None else self.artifact.name,
            "quality": None if self.quality is None else self.quality.to_json(),
            "footprint": None if self.footprint is None else self.footprint.to_json(),
            "promised": None if self.promised is None else self.promised.to_json(),
            "refused": self.refused,
            "seconds": self.seconds,
            "curve": [dict(entry) for entry in self.curve],
            "layers": [layer.to_json() for layer in self.layers],
            "recipe": dict(self.recipe),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Point:
        """The Point that `to_json` wrote, whose artifact is in `folder`."""
        given = dict(data)
        given["steps"] = [(name, options) for name, options in given["steps"]]
        given["artifact"] = None if given["artifact"] is None else folder / given["artifact"]
        given["quality"] = None if given["quality"] is None else Quality.from_json(given["quality"])
        for name in ("footprint", "promised"):
            given[name] = None if given[name] is None else Footprint(**given[name])
        given["layers"] = [LayerError.from_json(layer) for layer in given.get("layers", ())]
        return cls(**given)


def _options_text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={option_text(value)}" for name, value in options.items())
