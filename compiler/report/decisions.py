"""The table of what quantisation decided for each layer, on which numbers, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .quantities import bytes_text, time_text

QUANTIZED = "quantize-ops"
"""The pass whose decisions are how wide the numbers of layers are."""
COLUMNS = ("layer", "width", "dB alone", "at outputs", "float32", "int8", "bytes", "as int8", "why")


@dataclass(frozen=True)
class LayerDecision:
    """One layer: how wide its numbers are and what that was decided on.

    `width` is "float32", "int8", "int8-weights" and the like. `layer_noise` and `output_noise` are the error power that
    quantising it alone causes, relative to the signal's, at its result and at the model's. Seconds and bytes are of the
    layer in float32 and in int8. What was not measured is None; `how` says where the seconds come from.
    """

    node: str
    op: str
    source: str
    width: str
    why: str
    how: str = ""
    layer_noise: float | None = None
    output_noise: float | None = None
    float_seconds: float | None = None
    int8_seconds: float | None = None
    float_bytes: int | None = None
    int8_bytes: int | None = None

    def row(self) -> tuple[str, ...]:
        """The texts under `COLUMNS`."""
        seconds = ("" if x is None else time_text(x) for x in (self.float_seconds, self.int8_seconds))
        sizes = ("" if x is None else bytes_text(x) for x in (self.float_bytes, self.int8_bytes))
        noises = (decibel_text(self.layer_noise), decibel_text(self.output_noise))
        return (f"%{self.node}", self.width, *noises, *seconds, *sizes, self.why)

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal decision."""
        return asdict(self)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> LayerDecision:
        """The decision that `to_json` described."""
        return LayerDecision(**document)


@dataclass(frozen=True)
class Decisions:
    """What was decided for each layer, in graph order."""

    layers: tuple[LayerDecision, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The headers of the table, which say where its seconds come from."""
        how = ", ".join(sorted({layer.how for layer in self.layers if layer.how}))
        return tuple(f"{name} ({how})" if how and name in ("float32", "int8") else name for name in COLUMNS)

    def text(self) -> str:
        """The table, one line a layer."""
        rows = [self.columns, *(layer.row() for layer in self.layers)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def to_json(self) -> list[dict[str, Any]]:
        """The layers as plain data."""
        return [layer.to_json() for layer in self.layers]

    @staticmethod
    def from_json(document: Iterable[Mapping[str, Any]]) -> Decisions:
        """The decisions that `to_json` described."""
        return Decisions(tuple(map(LayerDecision.from_json, document)))


def decibel(noise: float) -> float:
    """The signal-to-noise ratio in dB of an error power relative to the signal's; infinite without noise."""
    return -10 * math.log10(noise) if noise > 0 else math.inf


def decibel_text(noise: float | None) -> str:
    """`38.2 dB`, `exact`; nothing for what was not measured."""
    if noise is None:
        return ""
    return f"{decibel(noise):.1f} dB" if noise > 0 else "exact"
