"""What `explain` and its page show of pruning: groups, what stayed whole, errors by ratio."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import fxpress
import pytest
from fxpress.report.explanation import explain
from fxpress.report.page import render_page
from fxpress.report.pruned import Errors, GroupWidth, final_widths, sensitivity_plot
from typer.testing import Result


def width(name: str, units: int, left: int) -> GroupWidth:
    return GroupWidth(name, ("a", "b"), units, left, left)


def test_rows_are_plain_data() -> None:
    for row in (width("a", 8, 4), GroupWidth("%w dim 0", (), 3, 3, 3, "an output of the model")):
        assert GroupWidth.from_json(row.to_json()) == row
    errors = Errors("a", ((0.25, 0.5), (0.5, 1.0)))
    assert Errors.from_json(errors.to_json()) == errors


def test_steps_are_taken_together() -> None:
    steps = [width("a", 16, 12), width("b", 4, 4), width("a", 12, 8)]
    assert final_widths(steps) == (width("a", 16, 8), width("b", 4, 4))
    assert GroupWidth("a", (), 16, 7, 8).text() == "a: 8 of 16 units left, 7 rounded up"


def test_errors_are_laid_out_on_a_logarithmic_axis() -> None:
    errors = [Errors("a", ((0.5, 0.01), (0.25, 0.0))), Errors("b", ((0.5, 1.0), (0.25, math.inf)))]
    plot = sensitivity_plot(errors, 200, 100)
    assert [line.title for line in plot.lines] == ["25% removed", "50% removed"]
    assert [(x, y) for x, y, _ in plot.lines[1].points] == [(50, pytest.approx(100)), (150, pytest.approx(0))]
    assert [y for _, y, _ in plot.lines[0].points] == [100, 0]
    assert [label for _, label in plot.ticks] == ["0.01", "0.1", "1"]
    assert sensitivity_plot([], 200, 100).lines == ()


def test_the_page_shows_widths_and_errors(
    fxpress_command: Callable[..., Result], model_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.fxp"
    options = ("-o", path, "--config", "0.5", "--multiple", 4, "--sensitivity", tmp_path / "sensitivity.html")
    result = fxpress_command("prune", f"{model_file}:with_inputs", *options)
    assert result.exit_code == 0, result.output
    found = explain(fxpress.runtime.load(path), "m", 0.02)
    pruned = [(w.name, w.layers, w.units, w.left) for w in found.widths if not w.why]
    assert pruned == [("linear", ("linear",), 16, 8)]
    whole = {w.name: w.why for w in found.widths if w.why}
    assert any("a softmax is over all of it" in why for why in whole.values())
    assert [e.group for e in found.sensitivity] == ["linear"]
    assert [ratio for ratio, _ in found.sensitivity[0].by_ratio] == [0.1, 0.25, 0.5, 0.75]
    page = render_page(found)
    (row,) = [line for line in page.split("\n") if line.startswith("<tr><td><code>linear</code>")]
    assert re.search(r'class="n">16</td><td class="n">8</td>.*width:100\.00%"><i class="k0" style="width:50\.00%"', row)
    assert f"{len(whole)} stay whole" in page
    assert page.count('<polyline class="curve"') == 4
