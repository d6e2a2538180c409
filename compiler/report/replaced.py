"""What took the place of layers and what that costs, as data that reports show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .quantities import percent_text


@dataclass(frozen=True)
class LayerReplacement:
    """A layer that was replaced, or, with `why`, one that stays.

    `before` and `after` say in words what computes its result. Parameters are those of weights, `macs` the
    multiply-accumulates for one item of a batch, sizes that vary counted as 1. `error` is that of the weight or the
    function, relative; `output_error` that of the layer's results on calibration inputs where there were any.
    """

    layer: str
    before: str
    after: str
    error: float = 0.0
    output_error: float | None = None
    parameters: tuple[int, int] = (0, 0)
    macs: tuple[int, int] = (0, 0)
    why: str = ""

    def text(self) -> str:
        """`linear: 64 -> 32 becomes 64 -> 8 -> 32, 38.0% of the parameters, weight error 12.0%`."""
        if self.why:
            return f"{self.layer}: {self.before} stays: {self.why}"
        parts = [f"{self.layer}: {self.before} becomes {self.after}"]
        if self.parameters[0]:
            parts.append(f"{percent_text(self.parameters[1] / self.parameters[0])} of the parameters")
        parts.append(f"error {percent_text(self.error)}")
        if self.output_error is not None:
            parts.append(f"of the results {percent_text(self.output_error)}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal one."""
        return asdict(self) | {"parameters": list(self.parameters), "macs": list(self.macs)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> LayerReplacement:
        """What `to_json` described."""
        pairs = {name: tuple(document[name]) for name in ("parameters", "macs")}
        return LayerReplacement(**{**document, **pairs})
