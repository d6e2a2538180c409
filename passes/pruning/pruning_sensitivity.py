"""How much each group's or layer's loss costs: the error at the outputs when it alone is pruned, by ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ...errors import InvalidInput
from ...numerics import relative_error
from ...pass_manager import PassManager
from ...program import PassRecord, Program
from ...report.pruned import SENSITIVITY, Errors
from ...rewriter import Pass
from ...target import Target
from .config import PruneConfig, check_ratio, count_of
from .groups import Group, Groups
from .importance import score
from .patterns import UNITS, Pattern, parse_pattern
from .reconstruction import visit_layers
from .remove_units import Removal, RemoveUnits
from .selection import choose
from .steps import Scopes, removable_groups
from .weight_importance import score_weights
from .weight_layers import WeightLayer
from .zero_steps import Zeros, layers_to_zero, pattern_of
from .zero_weights import ZeroWeights

RATIOS = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Sensitivity:
    """The error at the worst output, relative to its norm and averaged over items, for each `part` and ratio.

    A part is a "group" of units, or with a pattern of zeros a "layer".
    """

    ratios: tuple[float, ...]
    errors: dict[str, tuple[float, ...]]
    part: str = "group"

    def text(self) -> str:
        """A table, one line a part."""
        rows = [(self.part, *(f"{ratio:g}" for ratio in self.ratios))]
        rows += [(name, *(f"{error:.3g}" for error in errors)) for name, errors in self.errors.items()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "".join("  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows)

    def note(self, program: Program) -> None:
        """Put it on record in the history of a Program, where `explain` finds it."""
        rows = [
            Errors(name, tuple(zip(self.ratios, errors, strict=True))).to_json() for name, errors in self.errors.items()
        ]
        program.history.append(PassRecord(SENSITIVITY, (), (), 0.0, program.text(), tuple(rows)))

    def plot(self, path: str | Path) -> None:
        """Write the picture as one HTML page that needs no network: a line for each ratio over the parts."""
        import plotly.graph_objects as go

        figure = go.Figure(
            layout={"template": "plotly_white", "title": f"error at the outputs when one {self.part} is pruned"}
        )
        for number, ratio in enumerate(self.ratios):
            errors = [each[number] for each in self.errors.values()]
            figure.add_scatter(x=list(self.errors), y=errors, name=f"{ratio:.0%} removed", mode="lines+markers")
        figure.update_yaxes(title="relative error", type="log")
        figure.write_html(str(path), include_plotlyjs=True)


def measure_sensitivity(
    program: Program,
    config: PruneConfig,
    data: Iterable[Sequence[Tensor]],
    *,
    ratios: Sequence[float] | None = None,
    target: str | Target = "cpu",
    ignore: Scopes = (),
    only: Scopes = (),
) -> Sensitivity:
    """Prune each group, or with a pattern of zeros each layer, alone by each ratio; run the program on all of `data`.

    `data` yields flat inputs. What goes is decided as `config` says; `ratios` are 0.1, 0.25, 0.5 and 0.75 without any,
    and that of an N:M pattern, which has no other. Raises InvalidInput for other ratios and no data.
    """
    chosen = _ratios(config, ratios)
    items = [tuple(inputs) for inputs in data]
    if not items:
        raise InvalidInput("data must have at least one item, not none")
    wanted = [program.run_flat(*inputs) for inputs in items]

    def error(change: Pass) -> float:
        small = PassManager([change], verify="off").run(program)
        each = [
            max(relative_error(x, y) for x, y in zip(small.run_flat(*inputs), outputs, strict=True))
            for inputs, outputs in zip(items, wanted, strict=True)
        ]
        return float(np.mean(each))

    if config.pattern == UNITS:
        groups = removable_groups(program, ignore, only)
        return Sensitivity(chosen, _of_groups(program, groups, config, items, chosen, error))
    layers = layers_to_zero(program, ignore, only).chosen
    pattern = pattern_of(config, Target.parse(target))
    return Sensitivity(chosen, _of_layers(program, layers, pattern, config, items, chosen, error), "layer")


def _ratios(config: PruneConfig, ratios: Sequence[float] | None) -> tuple[float, ...]:
    pattern = parse_pattern(config.pattern)
    implied = None if pattern is None else pattern.ratio
    chosen = tuple(ratios) if ratios is not None else RATIOS if implied is None else (implied,)
    for ratio in chosen:
        check_ratio(ratio, "ratios")
        if implied is not None and ratio != implied:
            raise InvalidInput(f"ratios must be {[implied]} with pattern={config.pattern!r}, not {list(chosen)}")
    return chosen


Error = Callable[[Pass], float]
Items = Sequence[Sequence[Tensor]]


def _of_groups(
    program: Program, groups: Groups, config: PruneConfig, items: Items, ratios: Sequence[float], error: Error
) -> dict[str, tuple[float, ...]]:
    scores = score(program, groups, config, items)

    def without(group: Group, ratio: float) -> RemoveUnits:
        chosen = choose({group: scores[group]}, PruneConfig(ratio=ratio), ratios={}, original={group: group.size})
        return RemoveUnits(Removal.of(groups, chosen))

    return {group.name: tuple(error(without(group, ratio)) for ratio in ratios) for group in groups.removable}


def _of_layers(
    program: Program,
    layers: Sequence[WeightLayer],
    pattern: Pattern,
    config: PruneConfig,
    items: Items,
    ratios: Sequence[float],
    error: Error,
) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {}
    scores = score_weights(program, layers, pattern, config, items)

    def visit(layer: WeightLayer, moment: Tensor | None) -> None:
        zeros = Zeros(program, layer, pattern, scores[layer], config)
        weights = [zeros.weight(count_of(ratio, scores[layer].numel()), moment=moment) for ratio in ratios]
        found[layer.name] = tuple(error(ZeroWeights({layer.weight.name: (layer.name, x)})) for x in weights)

    if config.reconstruct:
        visit_layers(program, layers, items, visit)
    else:
        for layer in layers:
            visit(layer, None)
    return {layer.name: found[layer.name] for layer in layers}
