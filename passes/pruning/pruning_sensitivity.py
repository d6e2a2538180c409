"""How much each group's loss costs: the error at the outputs when it alone is pruned, by ratio, as text and picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ...errors import InvalidInput
from ...numerics import relative_error
from ...pass_manager import PassManager
from ...program import PassRecord, Program
from ...report.pruned import SENSITIVITY, Errors
from .config import PruneConfig, check_ratio
from .groups import Group
from .importance import score
from .remove_units import Removal, RemoveUnits
from .selection import choose
from .steps import Scopes, removable_groups

RATIOS = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Sensitivity:
    """The error at the worst output, relative to its norm and averaged over items, for each group and ratio."""

    ratios: tuple[float, ...]
    errors: dict[str, tuple[float, ...]]

    def text(self) -> str:
        """A table, one line a group."""
        rows = [("group", *(f"{ratio:g}" for ratio in self.ratios))]
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
        """Write the picture as one HTML page that needs no network: a line for each ratio over the groups."""
        import plotly.graph_objects as go

        figure = go.Figure(
            layout={"template": "plotly_white", "title": "error at the outputs when one group is pruned"}
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
    ratios: Sequence[float] = RATIOS,
    ignore: Scopes = (),
    only: Scopes = (),
) -> Sensitivity:
    """Prune each group alone by each ratio, and run the program on all items of `data`, its flat inputs.

    Units go in the order of `config.importance`. Raises InvalidInput for ratios outside [0, 1) and no data.
    """
    for ratio in ratios:
        check_ratio(ratio, "ratios")
    groups = removable_groups(program, ignore, only)
    items = [tuple(inputs) for inputs in data]
    if not items:
        raise InvalidInput("data must have at least one item, not none")
    scores = score(program, groups, config, items)
    wanted = [program.run_flat(*inputs) for inputs in items]

    def error(group: Group, ratio: float) -> float:
        chosen = choose({group: scores[group]}, PruneConfig(ratio=ratio), ratios={}, original={group: group.size})
        small = PassManager([RemoveUnits(Removal.of(groups, chosen))], verify="off").run(program)
        each = [
            max(relative_error(x, y) for x, y in zip(small.run_flat(*inputs), outputs, strict=True))
            for inputs, outputs in zip(items, wanted, strict=True)
        ]
        return float(np.mean(each))

    errors = {group.name: tuple(error(group, ratio) for ratio in ratios) for group in groups.removable}
    return Sensitivity(tuple(ratios), errors)
