"""A run's cost as tables for a terminal."""

from __future__ import annotations

from rich.table import Table

from ....report.quantities import bytes_text, percent_text, time_text
from .performance import LayerCost, Performance


def summary(performance: Performance) -> list[str]:
    """The run in a few lines."""
    total, architecture = performance.total, performance.architecture
    best = {
        name: sum(performance.baseline(layer).get(name, 0) for layer in performance.layers) for name in ("os", "ws")
    }
    compared = sum(layer.busy["array"] for layer in performance.layers if layer.facts.gemm is not None)
    return [
        f"{architecture.rows}x{architecture.columns} cells, dataflow {architecture.dataflow}, "
        f"{bytes_text(architecture.scratchpad_bytes)} scratchpad, {architecture.accumulator_kib} KiB accumulators, "
        f"{architecture.dram_bytes} B/cycle of DRAM",
        f"{total.cycles:,} cycles, {time_text(performance.seconds)} at {architecture.clock_mhz} MHz: "
        f"{total.facts.macs:,} useful products, {percent_text(performance.utilization(total))} of the cells",
        f"DRAM: {bytes_text(total.dram_read)} read, {bytes_text(total.dram_written)} written; "
        f"scratchpads: {bytes_text(total.scratchpad_bytes)} moved",
        f"transfers: the CPU writes {bytes_text(sum(x.written for x in performance.transfers))} for "
        f"{len(performance.transfers)} programs and reads {bytes_text(sum(x.read for x in performance.transfers))}: "
        f"{performance.transfer_cycles:,} more cycles at DRAM's bandwidth",
        "energy: " + ", ".join(f"{name} {joules_text(value)}" for name, value in total.energy.items())
        + f"; {joules_text(total.joules)} in all",
        f"array busy for {compared:,} cycles where SCALE-Sim's formulas give {best['os']:,} (output stationary) and "
        f"{best['ws']:,} (weight stationary)",
    ]  # fmt: skip


def layer_table(performance: Performance, text_width: int | None = None) -> Table:
    """One line a layer, and the total."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", "cycles", "used", "array", "bound by", "DRAM", "scratchpads", "energy", "roof", "SCALE-Sim"):
        table.add_column(name, justify="left" if name == "bound by" else "right", no_wrap=True)
    for name in ("layer", "shape", "source"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=text_width)
    for number, layer in enumerate(performance.layers):
        table.add_row(
            str(number), *_numbers(performance, layer), layer.facts.name, layer.facts.shape, layer.facts.source
        )
    table.add_row("", *_numbers(performance, performance.total), "total", "", "", style="bold")
    return table


def _numbers(performance: Performance, layer: LayerCost) -> list[str]:
    has_products = bool(layer.facts.macs)
    cells = performance.architecture.rows * performance.architecture.columns
    baseline = performance.baseline(layer)
    return [
        f"{layer.cycles:,}",
        percent_text(performance.utilization(layer)) if has_products else "",
        percent_text(performance.array_utilization(layer)) if has_products else "",
        layer.bound_by,
        bytes_text(layer.dram_bytes),
        bytes_text(layer.scratchpad_bytes),
        joules_text(layer.joules),
        percent_text(performance.attainable(layer) / cells) if has_products else "",
        f"{min(baseline.values()):,}" if baseline else "",
    ]


def joules_text(joules: float) -> str:
    """An energy: `1.20 mJ`, `35.00 uJ`."""
    for unit, scale in (("J", 1.0), ("mJ", 1e-3), ("uJ", 1e-6)):
        if joules >= scale:
            return f"{joules / scale:.2f} {unit}"
    return f"{joules * 1e9:.2f} nJ"
