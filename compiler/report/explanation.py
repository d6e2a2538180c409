"""Where a compiled model's time goes, layer by layer, and what the compiler did: the data behind text and page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInput
from ..runtime import Artifact
from .outcomes import Outcomes, outcomes_of
from .probe import Peaks, measure_peaks
from .timing import Timing, measure

_FEWEST_RUNS = 3
_MOST_RUNS = 1000


@dataclass(frozen=True)
class Layer:
    """One kernel call: what it computes, for which line of the model, and what that costs.

    `bytes` counts its operands once each; `seconds` is a median; `share` is its part of all layers' seconds.
    """

    number: int
    node: str
    op: str
    source: str
    type: str
    layout: str
    kernel: str
    note: str
    flops: int
    bytes: int
    seconds: float
    share: float

    @property
    def short_op(self) -> str:
        """The op without its namespace and overload: `conv`."""
        return self.op.split(".")[1] if self.op.count(".") == 2 else self.op

    @property
    def kind(self) -> str:
        """The kernel's name without its parameters: `direct-conv`."""
        return self.kernel.split(" ", 1)[0] or "?"

    @property
    def module(self) -> str:
        """Which module of the model it belongs to: `encoder.layer.0`."""
        match = re.search(r"\(([^()]*)\)$", self.source)
        return match.group(1) if match else ""

    @property
    def is_copy(self) -> bool:
        """Whether it only moves values, which the model did not ask for."""
        return self.note.startswith("copy") or self.note == "zero border"

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Group:
    """Layers taken together."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def seconds(self) -> float:
        return sum(layer.seconds for layer in self.layers)

    @property
    def share(self) -> float:
        return sum(layer.share for layer in self.layers)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Explanation(Outcomes):
    """Everything `explain` shows. `timing` is of whole calls, the layers' seconds of each layer called alone."""

    name: str
    artifact: Artifact
    layers: tuple[Layer, ...]
    timing: Timing
    peaks: Peaks

    @property
    def total(self) -> Group:
        """All layers."""
        return Group("total", self.layers)

    @property
    def copies(self) -> Group:
        """The layers that only move values."""
        return Group("copies", tuple(layer for layer in self.layers if layer.is_copy))

    @property
    def fallbacks(self) -> list[str]:
        """What runs in PyTorch; its time counts towards the layer that follows."""
        return list(self.artifact.manifest.get("fallbacks", []))

    def share_of_peak(self, flops_per_second: float) -> float:
        """A rate relative to the machine's."""
        return flops_per_second / self.peaks.flops_per_second

    def groups(self, key: Callable[[Layer], str]) -> list[Group]:
        """The layers grouped by `key`, the slowest group first."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            found.setdefault(key(layer), []).append(layer)
        return sorted((Group(name, tuple(layers)) for name, layers in found.items()), key=lambda g: -g.seconds)


def explain(artifact: Artifact, name: str, seconds: float = 2.0) -> Explanation:
    """Measure `artifact` on its sample inputs for about `seconds`, and the machine; gather what the compiler reported.

    Raises InvalidInput unless `seconds` is positive.
    """
    if not seconds > 0:
        raise InvalidInput(f"seconds must be positive, not {seconds}")
    inputs = artifact.sample_inputs()
    timing = measure(lambda: artifact.run_flat(*inputs), seconds / 2)
    runs = min(max(int(seconds / 2 / timing.median), _FEWEST_RUNS), _MOST_RUNS)
    return Explanation(
        outcomes_of(artifact),
        name,
        artifact,
        layers_of(artifact.profile(inputs, repeat=runs)),
        timing,
        measure_peaks(artifact.num_threads),
    )


def layers_of(profile: Sequence[tuple[dict[str, Any], float]]) -> tuple[Layer, ...]:
    """The layers that `Artifact.profile` timed."""
    total = sum(seconds for _, seconds in profile) or 1.0
    texts = ("node", "op", "source", "type", "layout", "kernel", "note")
    return tuple(
        Layer(
            number,
            **{key: str(layer.get(key, "")) for key in texts},
            flops=int(layer.get("flops", 0)),
            bytes=int(layer.get("bytes", 0)),
            seconds=seconds,
            share=seconds / total,
        )
        for number, (layer, seconds) in enumerate(profile)
    )
