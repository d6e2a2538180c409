"""Pictures of a run: cells used by layer, what the units do over time, the roofline."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from ..architecture import Unit
from ..simulator.timeline import Timeline
from .performance import LayerCost, Performance
from .tables import layer_table, summary

SLICES = 400  # of time in the timeline
UNITS = tuple(unit.name.lower() for unit in Unit)
_LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 40, "b": 60}, "height": 380}


def utilization_plot(performance: Performance) -> Any:
    """For each layer the cells that do useful work, of all cycles and of those in which the array is busy."""
    layers = _labelled(performance)
    figure = go.Figure()
    for title, share in (("while the array is busy", performance.array_utilization), ("", performance.utilization)):
        values = [100 * share(layer) for layer in layers.values()]
        figure.add_bar(x=list(layers), y=values, name=title or "of the layer's cycles", width=0.8 if title else 0.5)
    figure.update_layout(**_LAYOUT, title="cells that multiply something useful", barmode="overlay")
    figure.update_yaxes(title="% of the cells", range=[0, 100])
    return figure


def timeline_plot(timelines: Sequence[Timeline]) -> Any:
    """How busy each unit is over the run, one program after the other."""
    figure = go.Figure()
    total = sum(timeline.total for timeline in timelines)
    edges = np.linspace(0, max(total, 1), min(SLICES, max(total, 1)) + 1)
    for unit in Unit:
        busy = _busy_share(timelines, unit, edges)
        figure.add_scatter(
            x=edges[:-1], y=100 * busy, name=unit.name.lower(), line={"shape": "hv", "width": 1.5}, mode="lines"
        )
    figure.update_layout(**_LAYOUT, title="what the units do over time")
    figure.update_xaxes(title="cycle")
    figure.update_yaxes(title="% of the time busy", range=[0, 101])
    return figure


def roofline_plot(performance: Performance) -> Any:
    """Layers by useful products for each byte of DRAM and each cycle, under the machine's roof."""
    layers = {name: layer for name, layer in _labelled(performance).items() if layer.dram_bytes and layer.cycles}
    architecture, figure, cycles = performance.architecture, go.Figure(), performance.total.cycles
    cells = architecture.rows * architecture.columns
    intensities = [layer.facts.macs / max(layer.dram_read, layer.dram_written) for layer in layers.values()]
    ridge = cells / architecture.dram_bytes
    low, high = min([ridge, *intensities]) / 2, max([ridge, *intensities]) * 2
    figure.add_scatter(
        x=[low, ridge, high], y=[low * architecture.dram_bytes, cells, cells], mode="lines", name="roof",
        line={"dash": "dash"},
    )  # fmt: skip
    figure.add_scatter(
        x=intensities, y=[layer.facts.macs / layer.cycles for layer in layers.values()], mode="markers", name="layers",
        text=list(layers),
        marker={"size": [8 + 30 * (layer.cycles / cycles) ** 0.5 for layer in layers.values()], "opacity": 0.7},
    )  # fmt: skip
    figure.update_layout(**_LAYOUT, title="roofline")
    figure.update_xaxes(type="log", title="useful products for each byte of DRAM, the busier direction")
    figure.update_yaxes(type="log", title="useful products a cycle")
    return figure


def page(name: str, performance: Performance, timelines: Sequence[Timeline]) -> str:
    """A page with the pictures and the numbers of each layer."""
    parts = [f"<h2>{title}</h2>\n{html}" for title, html in sections(performance, timelines)]
    style = "body { font: 14px system-ui, sans-serif; margin: 24px; } td, th { padding: 3px 9px; text-align: left; }"
    return "\n".join(
        ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">', f"<title>{escape(name)}</title>",
         f"<style>{style}</style></head><body>", f"<h1>{escape(name)}</h1>", *parts, "</body></html>\n"]
    )  # fmt: skip


def sections(performance: Performance, timelines: Sequence[Timeline]) -> list[tuple[str, str]]:
    """The pictures and the table as parts of a page: titles and HTML that needs nothing else."""
    figures = (utilization_plot(performance), timeline_plot(timelines), roofline_plot(performance))
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False})
        for index, figure in enumerate(figures)
    ]
    lines = "".join(f"<p>{escape(line)}</p>" for line in summary(performance))
    return [("On the array", "\n".join([lines, *parts, _table(performance)]))]


def _table(performance: Performance) -> str:
    """The table of layers as HTML."""
    text = io.StringIO()
    table = layer_table(performance)
    cells = zip(*(column.cells for column in table.columns), strict=True)
    print('<div style="overflow-x: auto"><table style="white-space: nowrap"><tr>', file=text)
    print(*(f"<th>{escape(str(column.header))}</th>" for column in table.columns), "</tr>", file=text)
    for row in cells:
        print("<tr>", *(f"<td>{escape(str(cell))}</td>" for cell in row), "</tr>", file=text)
    print("</table></div>", file=text)
    return text.getvalue()


def _busy_share(timelines: Sequence[Timeline], unit: Unit, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of each slice of time in which a unit is busy."""
    begins: list[int] = []
    ends: list[int] = []
    offset = 0
    for timeline in timelines:
        architecture = timeline.program.architecture
        for instruction, start in zip(timeline.program.instructions, timeline.start.tolist(), strict=True):
            if instruction.unit is unit:
                begins.append(offset + start)
                ends.append(offset + start + instruction.issue_cycles(architecture))
        offset += timeline.total
    moments = np.concatenate([begins, ends]).astype(np.float64)
    order = np.argsort(moments, kind="stable")
    steps = np.concatenate([np.ones(len(begins)), -np.ones(len(ends))])[order]
    times, running = np.concatenate([[0.0], moments[order]]), np.concatenate([[0.0], np.cumsum(steps)])
    busy_until = np.concatenate([[0.0], np.cumsum(running[:-1] * np.diff(times))])
    share: NDArray[np.float64] = np.diff(np.interp(edges, times, busy_until)) / np.diff(edges)
    return share


def _labelled(performance: Performance) -> dict[str, LayerCost]:
    """The layers with products by number and name."""
    return {f"{n} {layer.facts.name}": layer for n, layer in enumerate(performance.layers) if layer.facts.macs}
