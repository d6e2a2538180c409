"""The data behind `explain`, its pictures and its page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fxpress.errors import InvalidInput
from fxpress.report.explanation import Explanation, Layer, explain
from fxpress.report.page import render_page
from fxpress.report.pictures import roofline, treemap
from fxpress.report.probe import Peaks
from fxpress.report.quantities import bytes_text, rate_text, time_text
from fxpress.report.timing import measure
from fxpress.runtime import load
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import Result


@pytest.fixture(scope="module")
def explanation(artifact_file: Path) -> Explanation:
    return explain(load(artifact_file), "two <parts>", 0.02)


def test_layers_share_the_time(explanation: Explanation) -> None:
    assert len(explanation.layers) == explanation.artifact.manifest["calls"]
    assert sum(layer.share for layer in explanation.layers) == pytest.approx(1)
    assert explanation.total.flops == sum(layer["flops"] for layer in explanation.artifact.manifest["layers"])
    conv = next(layer for layer in explanation.layers if layer.short_op == "conv" and not layer.is_copy)
    assert conv.flops == 2 * 12 * 12 * 8 * 3 * 9
    assert conv.flops_per_second == pytest.approx(conv.flops / conv.seconds)


def test_groups_are_a_partition_slowest_first(explanation: Explanation) -> None:
    groups = explanation.groups(lambda layer: layer.kind)
    assert sorted(layer.number for group in groups for layer in group.layers) == list(range(len(explanation.layers)))
    assert [group.seconds for group in groups] == sorted((group.seconds for group in groups), reverse=True)


def test_copies_are_those_the_compiler_noted(explanation: Explanation) -> None:
    noted = [i for i, layer in enumerate(explanation.artifact.manifest["layers"]) if layer["note"].startswith("copy")]
    assert set(noted) <= {layer.number for layer in explanation.copies.layers}
    assert noted  # the image comes in PyTorch's order


def test_module_and_op_names() -> None:
    texts = {"node": "n", "type": "t", "layout": "row-major", "note": ""}
    layer = Layer(0, op="aten.add.Tensor", source="a.py:3 in f (encoder.0)", kernel="pointwise 3x4", flops=0, bytes=0,
                  seconds=0.0, share=0.0, **texts)  # fmt: skip
    assert (layer.module, layer.short_op, layer.kind) == ("encoder.0", "add", "pointwise")
    assert (layer.flops_per_second, layer.bytes_per_second) == (0, 0)


def test_the_page_is_whole_and_escaped(
    explanation: Explanation, fxpress_command: Callable[..., Result], artifact_file: Path, tmp_path: Path
) -> None:
    page = render_page(explanation)
    assert "two &lt;parts&gt;" in page
    assert not re.search(r"<parts>|https?://|<link|src=|@import", page)
    assert page.count('<tr id="layer-') == len(explanation.layers)
    assert page.count("<rect") >= 2 * len(explanation.layers)  # in the treemap and in the order of execution
    for outcome in explanation.passes:
        if outcome.rewrites or outcome.skipped:
            assert f"<td>{outcome.name}</td>" in page
    path = tmp_path / "page.html"
    assert fxpress_command("report", artifact_file, "-o", path, "--seconds", 0.02).exit_code == 0
    assert path.read_text().startswith("<!doctype html>")
    result = fxpress_command("explain", artifact_file, "--html", tmp_path / "no" / "page.html", "--seconds", 0.02)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the page must go to a file that can be written, not ")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30), st.floats(1, 500), st.floats(1, 500))
def test_treemap_fills_the_rectangle(weights: list[float], width: float, height: float) -> None:
    boxes = treemap(list(enumerate(weights)), 10, 20, width, height)
    assert sorted(box.item for box in boxes) == list(range(len(weights)))
    for box in boxes:
        share = weights[box.item] / sum(weights)
        assert box.width * box.height == pytest.approx(share * width * height, rel=1e-3, abs=1e-6)
        assert 10 - 1e-6 <= box.x <= box.x + box.width <= 10 + width * (1 + 1e-6) + 1e-6
        assert 20 - 1e-6 <= box.y <= box.y + box.height <= 20 + height * (1 + 1e-6) + 1e-6


def test_treemap_leaves_out_what_takes_no_time() -> None:
    assert treemap([("a", 0.0)], 0, 0, 10, 10) == []
    assert [box.item for box in treemap([("a", 0.0), ("b", 1.0)], 0, 0, 10, 10)] == ["b"]


def test_roofline_puts_the_machine_on_top(explanation: Explanation) -> None:
    peaks = Peaks(1e15, 1e13, 2)
    picture = roofline(explanation.layers, peaks, 800, 300)
    assert len(picture.dots) == sum(layer.flops > 0 for layer in explanation.layers)
    assert all(0 <= dot.x <= 800 and picture.roof[1][1] < dot.y <= 300 for dot in picture.dots)
    assert roofline((), peaks, 800, 300).dots == ()


def test_measure_counts_and_orders() -> None:
    calls: list[int] = []
    timing = measure(lambda: calls.append(0), 0.01)
    assert timing.calls < len(calls)  # the first ones warm up
    assert timing.p10 <= timing.median <= timing.p90
    with pytest.raises(InvalidInput, match=r"^seconds must be positive, not 0$"):
        measure(lambda: None, 0)


def test_quantities() -> None:
    assert [bytes_text(n) for n in (5, 2048, 3 << 20, 5 << 30)] == ["5 B", "2.0 KiB", "3.0 MiB", "5.0 GiB"]
    assert [time_text(t) for t in (5.3e-7, 1.2e-3, 3)] == ["0.53 us", "1.20 ms", "3.00 s"]
    assert [rate_text(r * 1e9) for r in (118.2, 9.32, 0.421, 0)] == ["118", "9.3", "0.42", ""]
