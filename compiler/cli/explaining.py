"""`fxpress explain` and `fxpress report`: need no PyTorch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..errors import InvalidInput
from ..report.decisions import Decisions
from ..report.explanation import Explanation, explain
from ..report.probe import HOW
from ..report.quantities import bytes_text, percent_text, rate_text, time_text
from ..runtime import load
from .formatting import console, zeros_table

_WIDE = 200  # characters from which on every column of the layers is shown
_NUMBER_WIDTH = 10


def print_explanation(path: Path, threads: int | None, seconds: float) -> None:
    """Print where the time of an artifact's calls goes and what the compiler did."""
    explanation = _explain(path, threads, seconds)
    out = console()
    _print_summary(out, explanation)
    out.print(_layers(explanation, out.width), _kinds(explanation), sep="\n\n")
    _print_copies(out, explanation)
    for line in explanation.artifact.notes():
        out.print(f"device: {line}")
    for line in explanation.fallbacks:
        out.print(f"fallback: {line}", style="yellow")
    out.print("", _passes(explanation), sep="\n")
    if pruned := [width for width in explanation.widths if not width.why]:
        out.print("\nwhat pruning left", style="bold")
        out.print("\n".join(f"  {line}" for line in (*explanation.promises, *(width.text() for width in pruned))))
    if explanation.zeros:
        out.print("\nzeros that pruning put into weights", zeros_table(explanation.zeros), sep="\n")
    if explanation.replaced:
        out.print("\nwhat took the place of layers", style="bold")
        out.print("\n".join(f"  {row.text()}" for row in explanation.replaced))
    if explanation.decisions.layers:
        out.print("\nwhat quantisation decided", style="bold")
        out.print(_decisions(explanation.decisions))


def write_page(path: Path, page: Path, threads: int | None, seconds: float) -> None:
    """Write the explanation as one HTML page."""
    from ..report.page import render_page

    text = render_page(_explain(path, threads, seconds))
    try:
        page.write_text(text)
    except OSError as error:
        raise InvalidInput(f"the page must go to a file that can be written, not {str(page)!r}: {error}") from error
    console().print(f"wrote {page}")


def _explain(path: Path, threads: int | None, seconds: float) -> Explanation:
    return explain(load(path, num_threads=threads), path.name, seconds)


def _print_summary(out: Console, e: Explanation) -> None:
    rate = e.total.flops / e.timing.median
    peak = percent_text(e.share_of_peak(rate))
    out.print(e.name, style="bold", end="  ")
    out.print(
        f"{time_text(e.timing.median)} a call on {e.peaks.threads} threads, {len(e.layers)} kernel calls, "
        f"{e.total.flops / 1e9:.3g} GFLOP: {rate_text(rate) or 0} GFLOP/s, {peak} of peak"
    )
    out.print(f"peak: {rate_text(e.peaks.flops_per_second)} GFLOP/s, {HOW}\n", style="dim")


def _table(*columns: str, text_width: int | None = None) -> Table:
    """A table whose columns with a leading > are of numbers; others are cut at `text_width`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        if column.startswith(">"):
            table.add_column(column[1:], justify="right", no_wrap=True, min_width=7)
        else:
            table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=text_width)
    return table


def _layers(e: Explanation, width: int) -> Table:
    """One line a layer, as much of it as `width` characters hold."""
    texts = ["kernel", "source"] if width < _WIDE else ["op", "type", "layout", "kernel", "source", "note"]
    room = (width - 6 * (_NUMBER_WIDTH + 1)) // len(texts) - 1
    table = _table(">#", ">time", ">share", ">GFLOP/s", ">peak", ">bytes", *texts, text_width=room)
    for layer in e.layers:
        table.add_row(
            str(layer.number),
            time_text(layer.seconds),
            percent_text(layer.share),
            rate_text(layer.flops_per_second),
            percent_text(e.share_of_peak(layer.flops_per_second)) if layer.flops else "",
            bytes_text(layer.bytes),
            *(layer.short_op if text == "op" else getattr(layer, text) for text in texts),
        )
    return table


def _kinds(e: Explanation) -> Table:
    table = _table("kind of kernel", ">calls", ">time", ">share", ">GFLOP/s", ">peak")
    for group in (*e.groups(lambda layer: layer.kind), e.total):
        rate = group.flops_per_second
        table.add_row(
            group.name,
            str(len(group.layers)),
            time_text(group.seconds),
            percent_text(group.share),
            rate_text(rate),
            percent_text(e.share_of_peak(rate)) if rate else "",
        )
    return table


def _print_copies(out: Console, e: Explanation) -> None:
    copies = e.copies
    if not copies.layers:
        out.print("\nno copies")
        return
    out.print(f"\ncopies: {len(copies.layers)} calls, {percent_text(copies.share)} of the time", style="bold")
    for group in e.groups(lambda layer: layer.note if layer.is_copy else ""):
        if group.name:
            out.print(f"  {len(group.layers)} x {group.name}, {time_text(group.seconds)}")


def _decisions(decisions: Decisions) -> Table:
    first, second, *numbers, last = decisions.columns
    table = _table(first, second, *(f">{name}" for name in numbers), last)
    table.columns[-1].no_wrap = False
    for layer in decisions.layers:
        table.add_row(*layer.row())
    return table


def _passes(e: Explanation) -> Table:
    table = _table("pass", ">rewrites", "left alone, because")
    table.columns[-1].no_wrap = False
    for outcome in e.passes:
        if outcome.rewrites or outcome.skipped:
            reasons = "\n".join(f"{reason} ({n} times)" if n > 1 else reason for reason, n in outcome.skipped)
            table.add_row(outcome.name, str(len(outcome.rewrites)), reasons)
    return table
