"""What the passes did to a model, from the reports that its history left in the artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime import Artifact
from .decisions import QUANTIZED, Decisions
from .pruned import PROMISED, SENSITIVITY, WIDTHS, ZEROS, Errors, GroupWidth, LayerZeros, final_widths, final_zeros
from .replaced import LayerReplacement

TRAINING = "train"
"""The name of the record whose decisions are rows of a curve: the epochs of a training."""
_NO_DECISIONS = Decisions(())


@dataclass(frozen=True)
class PassOutcome:
    """What one pass did: rewrites, and reasons not to, with how often each occurred; and the rows that it decided."""

    name: str
    rewrites: tuple[str, ...]
    skipped: tuple[tuple[str, int], ...]
    decisions: Decisions = _NO_DECISIONS
    widths: tuple[GroupWidth, ...] = ()
    zeros: tuple[LayerZeros, ...] = ()
    sensitivity: tuple[Errors, ...] = ()
    replaced: tuple[LayerReplacement, ...] = ()
    curve: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> PassOutcome:
        """What a record of an artifact's report says."""
        name, rows = str(record["name"]), record.get("decisions", [])
        kinds = (WIDTHS, ZEROS, SENSITIVITY, QUANTIZED, TRAINING)
        return cls(
            name,
            tuple(map(str, record.get("rewrites", []))),
            tuple(Counter(str(reason) for reason in record.get("skipped", [])).most_common()),
            Decisions.from_json(rows if name == QUANTIZED else []),
            tuple(map(GroupWidth.from_json, rows if name == WIDTHS else [])),
            tuple(map(LayerZeros.from_json, rows if name == ZEROS else [])),
            tuple(map(Errors.from_json, rows if name == SENSITIVITY else [])),
            tuple(map(LayerReplacement.from_json, rows if name not in kinds else [])),
            tuple(rows if name == TRAINING else []),
        )


@dataclass(frozen=True)
class Outcomes:
    """What all passes did, in order."""

    passes: tuple[PassOutcome, ...]

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

    @property
    def replaced(self) -> tuple[LayerReplacement, ...]:
        """The layers that others took the place of, and those that might have been and stay."""
        return tuple(row for outcome in self.passes for row in outcome.replaced)


def outcomes_of(artifact: Artifact) -> tuple[PassOutcome, ...]:
    """What the passes did, as the artifact's report says; nothing where it was left out."""
    return tuple(map(PassOutcome.of, artifact.report().get("passes", [])))
