"""The same Program on arrays of many shapes: latency, energy and proxies of area, as a table and a picture."""

from __future__ import annotations

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

    Raises InvalidInput when there is none, or for a size or dataflow that no architecture has.
    """
    found = [
        replace(base, rows=r, columns=c, dataflow=dataflow, vector_lanes=0)
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
    """Latency over area, a line a dataflow, coloured by energy."""
    import plotly.graph_objects as go

    figure = go.Figure()
    made = [(point, point.performance) for point in points if point.performance is not None]
    joules = [performance.total.joules * 1e3 for _, performance in made]
    for dataflow in dict.fromkeys(point.architecture.dataflow for point, _ in made):
        line = sorted(
            (p.multipliers, f.seconds * 1e3, f.total.joules * 1e3, p.name)
            for p, f in made
            if p.architecture.dataflow == dataflow
        )
        area, latency, energy, names = zip(*line, strict=True)
        figure.add_scatter(
            x=area, y=latency, text=[f"{n}: {e:.3g} mJ" for n, e in zip(names, energy, strict=True)], name=dataflow,
            mode="lines+markers",
            marker={
                "size": 14, "color": energy, "cmin": min(joules), "cmax": max(joules), "colorscale": "Viridis",
                "colorbar": {"title": "mJ", "x": 1.02}, "showscale": not figure.data,
            },
        )  # fmt: skip
    figure.update_layout(template="plotly_white", title="latency and energy over area", legend={"x": 0.8, "y": 0.98})
    figure.update_xaxes(type="log", title="8-bit multipliers (cells and vector lanes)")
    figure.update_yaxes(type="log", title="milliseconds a run")
    return figure
