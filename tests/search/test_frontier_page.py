"""The page of a search: it needs nothing else, shows every point, and says what was done to the one that is clicked."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from fxpress.report.frontier_page import render_frontier
from fxpress.search.footprint import Footprint
from fxpress.search.frontier import Frontier, Point
from fxpress.search.objectives import objectives_of
from fxpress.search.quality import Quality


def point(number, quality, latency, size):
    footprint = Footprint(size, latency, latency, 0.0, 10, 10, 1 / latency)
    steps = [("prune", {"ratio": number / 10}), ("quantize", {"config": "<int8>"})] if number else []
    curve = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}] if number == 2 else []
    interval = Quality(quality, quality - 0.01, quality + 0.01)
    return Point(number, {}, steps, None, interval, footprint, footprint, curve=curve)


FRONTIER = Frontier(
    point(0, 0.9, 8.0, 100),
    [point(1, 0.89, 4.0, 50), point(2, 0.8, 2.0, 20), point(3, 0.7, 3.0, 30), Point(4, {}, [], refused="too <large>")],
    objectives_of(("quality", "latency", "size")),
    ("improve: left out, needs train=",),
    {"machine": "x86_64"},
)
LAYERS = {1: [{"node": "conv", "kernel": "tiled", "source": "model.py:1", "seconds": 0.5}]}


@pytest.fixture(scope="module")
def page():
    return render_frontier(FRONTIER, "A <small> model", layers=LAYERS)


def test_nothing_is_loaded_from_elsewhere(page):
    assert not re.search(r"(src|href)\s*=", page)
    assert "http" not in page.replace("http-equiv", "")


def test_what_users_wrote_is_text(page):
    assert "A &lt;small&gt; model" in page
    assert "too &lt;large&gt;" in page
    assert "config=&lt;int8&gt;" in page


def test_each_pair_of_objectives_has_a_plot_with_every_point(page):
    assert len(re.findall(r'<circle class="point \w+" data-point="\d+"', page)) == 3 * 4
    assert re.findall(r'aria-label="(\w+ against \w+)"', page) == [
        "quality against latency", "quality against size", "latency against size",
    ]  # fmt: skip


def test_marks_lie_inside_their_plots(page):
    for x, y in re.findall(r'<circle[^>]*cx="([\d.]+)" cy="([\d.]+)"', page):
        assert 70 <= float(x) <= 550
        assert 10 <= float(y) <= 320


def test_a_single_point_is_drawn():
    alone = replace(FRONTIER, tried=[])
    assert 'class="point original"' in render_frontier(alone, "one", layers={})


def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    FRONTIER.plot(tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the Debian package chromium")
def test_a_click_shows_what_was_done(page, tmp_path):
    click = "<script>document.querySelector('circle[data-point=\"2\"]').dispatchEvent(new MouseEvent('click'))</script>"
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{click}</body>"))
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        (tmp_path / "page.html").as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    hidden = dict(re.findall(r'<div class="view" id="point-(\d)" ?((?:hidden="")?)>', dom))
    assert [number for number, text in hidden.items() if not text] == ["2"]
    assert "lit" in re.search(r'<circle class="([^"]*)" data-point="2"', dom)[1]
    assert "ratio=0.2" in dom[dom.index('id="point-2"') : dom.index('id="point-3"')]
