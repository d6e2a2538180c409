"""The same Program on arrays of many shapes: latency, energy and proxies of area, as a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ....errors import CompilerError, InvalidInput
from ....progress import Progress
from ....report.quantities import percent_text, time_text
from ..architecture import Architecture
from .energy import EnergyTable
from .performance import Performance
from .tables import joules_text

if TYPE_CHECKING:
    from ....program import Program

LANE_MULTIPLIERS = 24
"""8-bit multipliers that a vector lane amounts to: two of 32 by 24 bits."""


@dataclass(frozen=True)
class Point:
    """A Program on one architecture: what it costs, or why it does not fit."""

    architecture: Architecture
    performance: Performance | None
    reason: str = ""

    @property
    def name(self) -> str:
        """The shape and the dataflow: `16x16 both`."""
        return f"{self.architecture.rows}x{self.architecture.columns} {self.architecture.dataflow}"

    @property
    def multipliers(self) -> int:
        """A proxy of logic area: cells, and the vector lanes in 8-bit multipliers."""
        cells = self.architecture.rows * self.architecture.columns
        return cells + LANE_MULTIPLIERS * self.architecture.vector_lanes

    @property
    def memory_kib(self) -> int:
        """A proxy of memory area."""
        return self.architecture.scratchpad_bytes // 1024 + self.architecture.accumulator_kib

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        total = self.performance.to_json()["total"] if self.performance is not None else None
        return {
            "architecture": str(self.architecture),
            "multipliers": self.multipliers,
            "memory_kib": self.memory_kib,
            "total": total,
            "reason": self.reason,
        }


def shapes(
    base: Architecture, rows: Sequence[int], columns: Sequence[int], dataflows: Sequence[str]
) -> list[Architecture]:
    """Every combination that is an architecture (no more rows than columns), all else as in `base`.

    Where `base` has a lane for each column, so has each of them. Raises InvalidInput when there is none, or for a size
    or dataflow that no architecture has.
    """
    lanes = 0 if base.vector_lanes == base.columns else base.vector_lanes
    found = [
        replace(base, rows=r, columns=c, dataflow=dataflow, vector_lanes=lanes)
        for c in columns
        for r in rows
        if r <= c
        for dataflow in dataflows
    ]
    if not found:
        raise InvalidInput(f"rows must not exceed columns, but all of {list(rows)} exceed all of {list(columns)}")
    return found


def sweep(
    program: Program,
    architectures: Iterable[Architecture],
    energy: EnergyTable | None = None,
    progress: Progress | None = None,
) -> list[Point]:
    """Compile `program`, which is quantised, for each architecture and count cycles and energy."""
    from ..backend import SystolicBackend
    from ..target import SystolicTarget

    stage = progress or (lambda name: None)
    table = energy if energy is not None else EnergyTable.load()
    points = []
    for architecture in architectures:
        point = Point(architecture, None)
        stage(point.name)
        try:
            lowered = SystolicBackend().lower(program, SystolicTarget(architecture))
        except CompilerError as error:
            points.append(replace(point, reason=str(error)))
            continue
        made = Performance.of(architecture, lowered.timelines, lowered.facts, table)
        points.append(replace(point, performance=made))
    return points


def sweep_table(points: Sequence[Point]) -> Table:
    """One line an architecture."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("array")
    for name in ("cycles", "time", "cells used", "energy", "multipliers", "KiB"):
        table.add_column(name, justify="right")
    table.add_column("")
    for point in points:
        area = (f"{point.multipliers:,}", str(point.memory_kib))
        if point.performance is None:
            table.add_row(point.name, "", "", "", "", *area, point.reason.split("\n")[0])
            continue
        made = point.performance
        table.add_row(
            point.name,
            f"{made.total.cycles:,}",
            time_text(made.seconds),
            percent_text(made.utilization(made.total)),
            joules_text(made.total.joules),
            *area,
            "",
        )
    return table


def sweep_plot(points: Sequence[Point]) -> Any:
    """Latency over area, a line for each dataflow and number of columns, coloured by energy."""
    import plotly.graph_objects as go

    figure = go.Figure()
    made = [(point, point.performance) for point in points if point.performance is not None]
    joules = [performance.total.joules * 1e3 for _, performance in made]
    lines: dict[str, list[tuple[Point, Performance]]] = {}
    for point, performance in made:
        name = f"{point.architecture.dataflow}, {point.architecture.columns} columns"
        lines.setdefault(name, []).append((point, performance))
    for number, (name, line) in enumerate(lines.items()):
        line.sort(key=lambda pair: pair[0].multipliers)
        energy = [performance.total.joules * 1e3 for _, performance in line]
        figure.add_scatter(
            x=[point.multipliers for point, _ in line], y=[performance.seconds * 1e3 for _, performance in line],
            text=[f"{point.architecture.rows}x{point.architecture.columns}" for point, _ in line], name=name,
            customdata=[[point.name, mj] for (point, _), mj in zip(line, energy, strict=True)],
            hovertemplate="%{customdata[0]}: %{y:.3g} ms, %{customdata[1]:.3g} mJ<extra></extra>",
            mode="lines+markers+text", textposition="top center",
            marker={
                "size": 14, "symbol": _SYMBOLS[line[0][0].architecture.dataflow], "color": energy, "cmin": min(joules),
                "cmax": max(joules), "colorscale": "Viridis", "colorbar": {"title": "mJ"}, "showscale": number == 0,
            },
        )  # fmt: skip
    figure.update_layout(
        template="plotly_white", title="latency and energy over area", legend={"orientation": "h", "y": -0.15}
    )
    figure.update_xaxes(
        title="8-bit multipliers (cells and vector lanes)", **_log_axis([p.multipliers for p, _ in made])
    )
    figure.update_yaxes(title="milliseconds a run", **_log_axis([f.seconds * 1e3 for _, f in made]))
    return figure


_SYMBOLS = {"os": "circle", "ws": "square", "both": "diamond"}


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with a mark at each 1, 2 and 5."""
    powers = range(math.floor(math.log10(min(values, default=1))), math.ceil(math.log10(max(values, default=1))) + 1)
    marks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": marks, "ticktext": [f"{mark:g}" for mark in marks]}
