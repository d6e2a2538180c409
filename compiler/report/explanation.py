"""Where a compiled model's time goes, layer by layer, and what the compiler did: the data behind text and page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInput
from ..runtime import Artifact
from .decisions import Decisions
from .probe import Peaks, measure_peaks
from .pruned import PROMISED, SENSITIVITY, WIDTHS, ZEROS, Errors, GroupWidth, LayerZeros, final_widths, final_zeros
from .timing import Timing, measure

_FEWEST_RUNS = 3
_MOST_RUNS = 1000
NONE_MADE = Decisions(())


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
class PassOutcome:
    """What one pass did: rewrites, and reasons not to, with how often each occurred."""

    name: str
    seconds: float
    rewrites: tuple[str, ...]
    skipped: tuple[tuple[str, int], ...]
    decisions: Decisions = NONE_MADE
    widths: tuple[GroupWidth, ...] = ()
    zeros: tuple[LayerZeros, ...] = ()
    sensitivity: tuple[Errors, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Everything `explain` shows. `timing` is of whole calls, the layers' seconds of each layer called alone."""

    name: str
    artifact: Artifact
    layers: tuple[Layer, ...]
    timing: Timing
    peaks: Peaks
    passes: tuple[PassOutcome, ...]

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

    @property
    def decisions(self) -> Decisions:
        """How wide each layer's numbers are and why, where the model was quantised."""
        return Decisions(tuple(layer for outcome in self.passes for layer in outcome.decisions.layers))

    @property
    def widths(self) -> tuple[GroupWidth, ...]:
        """What is left of each group of units, where the model was pruned, and the axes that stayed whole."""
        return final_widths(width for outcome in self.passes for width in outcome.widths)

    @property
    def promises(self) -> tuple[str, ...]:
        """What pruning to a budget promised and measured, a line each."""
        pruning = (outcome for outcome in self.passes if outcome.name == WIDTHS)
        return tuple(line for outcome in pruning for line in outcome.rewrites if PROMISED in line)

    @property
    def zeros(self) -> tuple[LayerZeros, ...]:
        """The layers whose weights got zeros in a pattern."""
        return final_zeros(zeros for outcome in self.passes for zeros in outcome.zeros)

    @property
    def sensitivity(self) -> tuple[Errors, ...]:
        """The errors when one group alone is pruned, where that was measured."""
        return tuple(errors for outcome in self.passes for errors in outcome.sensitivity)

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
        name,
        artifact,
        _layers(artifact.profile(inputs, repeat=runs)),
        timing,
        measure_peaks(artifact.num_threads),
        tuple(_outcome(record) for record in artifact.report().get("passes", [])),
    )


def _layers(profile: Sequence[tuple[dict[str, Any], float]]) -> tuple[Layer, ...]:
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


def _outcome(record: dict[str, Any]) -> PassOutcome:
    skipped = Counter(str(reason) for reason in record.get("skipped", []))
    name, rows = str(record["name"]), record.get("decisions", [])
    return PassOutcome(
        name,
        float(record.get("seconds", 0.0)),
        tuple(map(str, record.get("rewrites", []))),
        tuple(skipped.most_common()),
        Decisions.from_json(rows if name not in (WIDTHS, ZEROS, SENSITIVITY) else []),
        tuple(map(GroupWidth.from_json, rows if name == WIDTHS else [])),
        tuple(map(LayerZeros.from_json, rows if name == ZEROS else [])),
        tuple(map(Errors.from_json, rows if name == SENSITIVITY else [])),
    )
