"""A Frontier as a picture for papers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailable, InvalidInput
from ..runtime.container import replaced_file
from ..search.objectives import QUALITY
from .frontier_plots import Axis, least_shown

if TYPE_CHECKING:
    from ..search.frontier import Frontier

FORMATS = (".png", ".svg", ".pdf")


def plot_frontier(frontier: Frontier, path: Path) -> None:
    """Write quality against each cost, with intervals and peers, in the format that the path's ending names.

    Models with less than half of the original's quality are left out.

    Raises BackendUnavailable without matplotlib, InvalidInput for another ending.
    """
    if path.suffix not in FORMATS:
        raise InvalidInput(f"picture must be a file that ends in one of {list(FORMATS)}, not {str(path)!r}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable(
            'pictures need matplotlib, which is not installed; install it with pip install "fxpress[search]"'
        ) from error
    costs = frontier.objectives[1:]
    figure = Figure(figsize=(4.6 * len(costs), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(costs), squeeze=False)[0]
    on = {point.number for point in frontier.points} | {frontier.original.number}
    least = least_shown(frontier)
    beaten = [p for p in frontier.tried if p.is_whole and p.number not in on and p.value(QUALITY) >= least]
    best = [point for point in frontier.points if point.value(QUALITY) >= least]
    for axis, cost in zip(axes, costs, strict=True):
        shown = [*beaten, *best, frontier.original]
        costs_of_peers = [peer[cost.name] for peer in frontier.peers.values() if cost.name in peer]
        across = Axis([*(point.value(cost) for point in shown), *costs_of_peers], 0, 1, cost)
        for points, style in (
            (beaten, {"color": "0.72", "label": "beaten", "markersize": 4}),
            (best, {"color": "C0", "label": "frontier"}),
            ([frontier.original], {"color": "C3", "label": "original"}),
        ):
            if points:
                qualities = [point.quality for point in points if point.quality is not None]
                ends = [[q.value - q.low for q in qualities], [q.high - q.value for q in qualities]]
                given: dict[str, Any] = {"fmt": "o", "markersize": 5, "elinewidth": 0.8, "capsize": 2} | style
                axis.errorbar([point.value(cost) for point in points], [q.value for q in qualities], ends, **given)
        for name, peer in frontier.peers.items():
            if cost.name in peer and QUALITY.name in peer:
                place = peer[cost.name], peer[QUALITY.name]
                on_the_right = across.place(place[0]) > 0.4
                axis.plot(*place, "D", color="C1", markersize=5)
                axis.annotate(
                    name, place, (-6 if on_the_right else 6, 0), textcoords="offset points", size=8, va="center",
                    ha="right" if on_the_right else "left",
                )  # fmt: skip
        if across.is_log:
            axis.set_xscale("log")
        ticks = across.ticks()
        axis.set_xticks([tick.value for tick in ticks], [tick.text for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.set_xlabel(cost.name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(QUALITY.name)
    axes[0].legend(frameon=False, fontsize=8)
    with replaced_file(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=150)
