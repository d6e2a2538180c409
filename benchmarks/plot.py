"""Draws a file of results as PNG and as one self-contained HTML page: python benchmarks/plot.py results.json

Bars are latencies relative to the best peer of each model: 1 is the quickest competitor, shorter is better.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import results
import typer
from peers import OURS

COLOURS = {
    OURS: "#d1495b",
    results.FLOAT: "#e8a5ae",
    "eager": "#9aa5b1",
    "inductor": "#66788a",
    "ort": "#3d7ea6",
    "openvino": "#5c4d7d",
    "iree": "#8a9a5b",
}
LONGEST = 4.0  # a bar is cut here, its value written beside it


def relative(found: results.Results) -> dict[str, list[float | None]]:
    """For every peer one number a model: its median over that of the best peer, None if it did not run right."""
    rows: dict[str, list[float | None]] = {peer: [] for peer in found["settings"]["peers"]}
    for model in found["models"].values():
        best = results.best_peer(model, OURS)
        for peer, row in rows.items():
            entry = model["peers"].get(peer, {"failed": "not measured"})
            row.append(entry["median"] / best[1] if best and results.usable(entry) else None)
    return rows


def write(found: results.Results, path: Path) -> tuple[Path, Path]:
    """Writes both pictures beside `path` and returns where they are."""
    png, html = path.with_suffix(".png"), path.with_suffix(".html")
    _png(found, png)
    _html(found, html)
    return png, html


def _title(found: results.Results) -> str:
    return f"Latency relative to the best peer, {found['settings']['threads']} threads, {found['machine']['cpu']}"


def _png(found: results.Results, path: Path) -> None:
    from matplotlib.figure import Figure

    rows, names = relative(found), list(found["models"])
    figure = Figure(figsize=(9, 1.2 + 0.16 * len(names) * (len(rows) + 1)), layout="constrained")
    axes = figure.subplots()
    for i, (peer, values) in enumerate(rows.items()):
        places = [y + (i + 0.5) / (len(rows) + 1) - 0.5 for y in range(len(names))]
        drawn = [(y, value) for y, value in zip(places, values, strict=True) if value is not None]
        lengths = [min(value, LONGEST) for _, value in drawn]
        axes.barh([y for y, _ in drawn], lengths, 0.9 / (len(rows) + 1), label=peer, color=COLOURS.get(peer))
        for y, value in drawn:
            axes.text(min(value, LONGEST) + 0.02, y, f"{value:.2f}", va="center", fontsize=6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, LONGEST * 1.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_title(found), fontsize=10)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=len(rows))
    figure.savefig(path, dpi=150)


def _html(found: results.Results, path: Path) -> None:
    from plotly import graph_objects

    names = list(found["models"])
    bars = []
    for peer, values in relative(found).items():
        entries = [model["peers"].get(peer, {}) for model in found["models"].values()]
        hover = [
            f"{e['median'] * 1e3:.4g} ms ({e['p10'] * 1e3:.4g} to {e['p90'] * 1e3:.4g})" if "median" in e else ""
            for e in entries
        ]
        bars.append(
            graph_objects.Bar(
                name=peer, y=names, x=values, orientation="h", marker_color=COLOURS.get(peer), hovertext=hover
            )
        )
    figure = graph_objects.Figure(bars)
    figure.update_layout(title=_title(found), template="plotly_white", height=200 + 110 * len(names))
    figure.update_yaxes(autorange="reversed")
    figure.add_vline(x=1, line_width=1)
    figure.write_html(path, include_plotlyjs=True)


def main(file: Annotated[Path, typer.Argument(help="a JSON file that run.py wrote")]) -> None:
    """Draw results as FILE.png and FILE.html."""
    for written in write(results.read(file), file):
        typer.echo(f"wrote {written}")


if __name__ == "__main__":
    typer.run(main)
