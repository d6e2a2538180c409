"""Tables and pictures show what the run costs."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from fxpress.backends.systolic.report.performance import Performance
from fxpress.backends.systolic.report.plots import roofline_plot, sections, timeline_plot, utilization_plot
from fxpress.backends.systolic.report.sweep import Point, sweep_plot, sweep_table
from fxpress.backends.systolic.report.tables import joules_text, layer_table, summary
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from one_layer import ARCHITECTURE, FACTS, one_layer
from rich.console import Console

TIMELINE = simulate_cycles(one_layer())
PERFORMANCE = Performance.of(ARCHITECTURE, [TIMELINE], [FACTS])


def test_table_has_a_line_a_layer_and_the_total() -> None:
    text = io.StringIO()
    Console(file=text, width=300).print(layer_table(PERFORMANCE))
    head, product, maximum, total = text.getvalue().splitlines()
    assert head.split()[:3] == ["#", "cycles", "used"]
    assert product.split()[:2] == ["0", str(PERFORMANCE.layers[0].cycles)]
    assert "model.py:4 in forward (pool)" in maximum
    assert total.split()[0] == str(TIMELINE.total)


def test_nothing_on_the_array() -> None:
    nothing = Performance.of(ARCHITECTURE, [], [])
    text = io.StringIO()
    Console(file=text, width=300).print(layer_table(nothing))
    assert text.getvalue().splitlines()[1].split()[0] == "0"
    assert "0 cycles" in summary(nothing)[1]
    assert sections(nothing, [])


def test_summary_says_cycles_energy_and_baseline() -> None:
    text = "\n".join(summary(PERFORMANCE))
    assert f"{TIMELINE.total} cycles" in text
    assert "128 useful products" in text
    assert "SCALE-Sim's formulas give 19 (output stationary) and 17 (weight stationary)" in text


def test_bars_are_utilizations() -> None:
    busy, all_cycles = utilization_plot(PERFORMANCE).data
    assert list(busy.x) == list(all_cycles.x) == ["0 product"]
    assert list(all_cycles.y) == [100 * PERFORMANCE.utilization(PERFORMANCE.layers[0])]
    assert all_cycles.y[0] < busy.y[0] <= 100


def test_timeline_adds_up_to_the_busy_cycles() -> None:
    for programs in (1, 3):
        for trace in timeline_plot([TIMELINE] * programs).data:
            slice_cycles = TIMELINE.total * programs / len(trace.x)
            busy = programs * next(n for unit, n in TIMELINE.busy().items() if unit.name.lower() == trace.name)
            assert np.sum(trace.y) / 100 * slice_cycles == pytest.approx(busy)
            assert np.max(trace.y) <= 100 + 1e-9


def test_no_layer_is_above_the_roof() -> None:
    roof, layers = roofline_plot(PERFORMANCE).data
    for x, y in zip(layers.x, layers.y, strict=True):
        assert y <= min(x * ARCHITECTURE.dram_bytes, roof.y[-1])


def test_a_sweep_is_drawn_a_line_for_columns_and_dataflow() -> None:
    shapes = [(4, 4, "os"), (2, 4, "os"), (4, 8, "os"), (4, 4, "ws")]
    machines = [replace(ARCHITECTURE, rows=r, columns=c, dataflow=d, vector_lanes=0) for r, c, d in shapes]
    points = [Point(machine, PERFORMANCE) for machine in machines]
    figure = sweep_plot([*points, Point(replace(ARCHITECTURE, dataflow="ws"), None, "it does not fit")])
    assert [trace.name for trace in figure.data] == ["os, 4 columns", "os, 8 columns", "ws, 4 columns"]
    first = figure.data[0]
    assert (list(first.text), list(first.x)) == (["2x4", "4x4"], [8 + 4 * 24, 16 + 4 * 24])
    assert list(first.y) == [PERFORMANCE.seconds * 1e3] * 2
    assert sweep_plot([]).data == ()
    text = io.StringIO()
    Console(file=text, width=200).print(sweep_table([Point(ARCHITECTURE, None, "it does not fit\nfor reasons")]))
    assert text.getvalue().splitlines()[1].endswith("it does not fit")


def test_sections_need_nothing_else() -> None:
    ((title, html),) = sections(PERFORMANCE, [TIMELINE])
    assert title == "On the array"
    assert "plotly" in html
    assert "<script src" not in html
    assert "cdn." not in html.split("</script>")[-1]


@pytest.mark.parametrize(
    ("joules", "text"), [(2.5, "2.50 J"), (0.0031, "3.10 mJ"), (4.2e-5, "42.00 uJ"), (7e-9, "7.00 nJ"), (0, "0.00 nJ")]
)
def test_energies(joules: float, text: str) -> None:
    assert joules_text(joules) == text
