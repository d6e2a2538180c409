"""The page of a search: it needs nothing else, shows every point, and says what was done to the one that is clicked."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.report.frontier_page import render_frontier
from fxpress.report.frontier_plots import Axis, curves_of
from fxpress.report.layer_errors import LayerError
from fxpress.search.footprint import Footprint
from fxpress.search.frontier import Frontier, Point
from fxpress.search.objectives import OBJECTIVES, objectives_of
from fxpress.search.quality import Quality


def point(number, quality, latency, size):
    footprint = Footprint(size, latency, latency, 0.0, 10, 10, 1 / latency)
    steps = [("prune", {"ratio": number / 10}), ("quantize", {"config": "<int8>"})] if number else []
    curve = (
        [{"phase": "improve", "epoch": n, "loss": 3.0 - n, "quality": n / 10} for n in (1, 2)] if number == 2 else []
    )
    curve += [{"phase": "tune", "epoch": 1, "loss": 0.5, "quality": None}] if number == 2 else []
    layers = [LayerError("model.py:1 in forward (0)", ("linear",), 0.0125)]
    promised = replace(footprint, latency=latency * (1.05 if number == 1 else 1.5)) if number else footprint
    interval = Quality(quality, quality - 0.01, quality + 0.01)
    return Point(number, {}, steps, None, interval, footprint, promised, curve=curve, layers=layers)


FRONTIER = Frontier(
    point(0, 0.9, 8.0, 100),
    [point(1, 0.89, 4.0, 50), point(2, 0.8, 2.0, 20), point(3, 0.7, 3.0, 30), Point(4, {}, [], refused="too <large>")],
    objectives_of(("quality", "latency", "size")),
    ("improve: left out, needs train=",),
    {"machine": "x86_64"},
)
PEERS = {"<other> int8": {"quality": 0.88, "latency": 3.0}}


@pytest.fixture(scope="module")
def page():
    return render_frontier(FRONTIER.with_peers(PEERS), "A <small> model")


def test_nothing_is_loaded_from_elsewhere(page):
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)
    assert "http" not in page.replace("http-equiv", "")


def test_what_users_wrote_is_text(page):
    assert "A &lt;small&gt; model" in page
    assert "too &lt;large&gt;" in page
    assert "config=&lt;int8&gt;" in page
    assert "&lt;other&gt; int8" in page
    assert not re.search("<(small|large|int8|other)>", page)


def test_each_pair_of_objectives_has_a_plot_with_every_point(page):
    assert len(re.findall(r'<circle class="point \w+" data-point="\d+"', page)) == 3 * 4
    assert re.findall(r'aria-label="(\w+ against \w+)"', page) == [
        "quality against latency", "quality against size", "latency against size",
    ]  # fmt: skip
    assert page.count('class="point peer"') == 1  # it has no size


def test_marks_lie_inside_their_plots(page):
    for x, y in re.findall(r'<circle class="point[^>]*cx="([\d.]+)" cy="([\d.]+)"', page):
        assert 72 <= float(x) <= 428
        assert 12 <= float(y) <= 286


def test_trainings_are_told_apart_by_phase(page):
    assert [(curve.phase, curve.epochs) for curve in curves_of(FRONTIER.tried[1].curve)] == [
        ("improve", 2),
        ("tune", 1),
    ]
    assert [line.name for line in curves_of(FRONTIER.tried[1].curve)[0].lines] == ["loss", "quality"]
    again = [{"phase": "tune", "epoch": epoch, "loss": 1.0, "quality": None} for epoch in (1, 2, 1)]
    assert [curve.epochs for curve in curves_of(again)] == [2, 1]
    assert 'aria-label="Training curve of tune"' in page


def test_errors_notes_and_environment_are_shown(page):
    assert "1.2%" in page
    assert "improve: left out, needs train=" in page
    assert "<dt>machine</dt><dd>x86_64</dd>" in page
    assert "1 of 3</b><span>latencies promised" in page


def test_models_that_are_good_for_nothing_do_not_press_the_others_together():
    spoilt = replace(FRONTIER, tried=[*FRONTIER.tried[:3], point(5, 0.1, 1.0, 10)])
    page = render_frontier(spoilt, "spoilt")
    (plot,) = re.findall(r'aria-label="quality against latency".*?</svg>', page, re.DOTALL)
    heights = {int(n): float(y) for n, y in re.findall(r'data-point="(\d)".*?cy="([\d.]+)"', plot, re.DOTALL)}
    assert heights[5] == 286
    assert max(heights[n] for n in (0, 1, 2, 3)) - min(heights[n] for n in (0, 1, 2, 3)) > 150
    assert "size of number 1, within" not in page  # which loses more than that
    good = replace(FRONTIER, tried=[point(1, 0.895, 4.0, 50)])
    assert "0.5x</b><span>size of number 1, within 1% of the original&#39;s quality" in render_frontier(good, "good")


def test_a_single_point_is_drawn():
    assert 'class="point original"' in render_frontier(replace(FRONTIER, tried=[]), "one")


@pytest.mark.parametrize(("low", "high"), [(1e-3, 2e-3), (1e-4, 5e-3), (1e-7, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("name", ["latency", "size", "quality"])
def test_ticks_are_few_and_in_order(name, low, high):
    factor = 1e9 if name == "size" else 1.0
    ticks = Axis([low * factor, high * factor], 0, 100, OBJECTIVES[name]).ticks()
    assert 1 <= len(ticks) <= 6
    assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)
    assert all(0 <= tick.at <= 100 for tick in ticks)
    assert len({tick.text for tick in ticks}) == len(ticks)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A frontier with artifacts: the original, and one that was pruned and quantised."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
    program = fxpress.capture(model, (torch.randn(4, 16),))
    small = fxpress.prune(program, 0.5)
    small = fxpress.quantize(small, "int8", calibration=[torch.randn(4, 16) for _ in range(4)], profitable="off")
    for number, model in enumerate((program, small)):
        fxpress.compile(model).save(folder / f"{number}.fxp")
    sources = [str(node.meta["source"]) for node in program.nodes if node.name in ("linear", "linear_1")]
    layers = [LayerError(source, (name,), 0.25) for source, name in zip(sources, ("linear", "linear_1"), strict=True)]
    original, point, *_ = (FRONTIER.original, *FRONTIER.tried)
    return replace(
        FRONTIER,
        original=replace(original, artifact=folder / "0.fxp", layers=layers),
        tried=[replace(point, artifact=folder / "1.fxp", layers=layers)],
    )


def test_what_was_done_to_each_layer_is_shown(made):
    page = render_frontier(made, "made")
    view = page[page.index('id="point-1"') : page.index("All models")]
    first = next(row for row in view.split("<tr>") if "64 \N{RIGHTWARDS ARROW} 32" in row)
    assert "int8" in first
    assert "25%" in first
    assert re.search(r"\d (us|ms)</td>", first)
    assert "what quantisation decided" in view
    assert "what pruning left" in view


def test_peers_are_kept(made, tmp_path):
    made.with_peers(PEERS).save(tmp_path)
    loaded = Frontier.load_from(tmp_path)
    assert loaded.peers == PEERS
    assert [layer.error for layer in loaded.original.layers] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("peers", "message"),
    [
        ({"a": {"beauty": 1}}, r"peer 'a' must have objectives among .*, not 'beauty'"),
        ({"a": {"latency": 0}}, r"latency of peer 'a' must be a positive number, not 0"),
        ({"a": {"quality": float("nan")}}, r"quality of peer 'a' must be a finite number, not nan"),
        ({"a": 3}, r"peers must be like .*, not \{'a': 3\}"),
    ],
)
def test_wrong_peers(peers, message, tmp_path):
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        FRONTIER.report(tmp_path / "page.html", peers=peers)


def test_promises_are_counted():
    assert FRONTIER.promises() == (1, 3)
    assert "promised latency within 10% of the measured one: 1 of 3 trained points" in FRONTIER.text()


@pytest.mark.parametrize(("name", "begin"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.pdf", b"%PDF")])
def test_a_picture(tmp_path, name, begin):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    FRONTIER.plot(tmp_path / name, peers=PEERS)
    assert (tmp_path / name).read_bytes().startswith(begin)


def test_a_picture_of_another_kind(tmp_path):
    with pytest.raises(InvalidInput, match=r"^picture must be a file that ends in one of .*, not '.*\.bmp'$"):
        FRONTIER.plot(tmp_path / "frontier.bmp")


STEPS = """<script>{
const found = [], lit = () => [...document.querySelectorAll(".lit")].map((mark) => mark.tagName + mark.dataset.point);
const shown = () => [...document.querySelectorAll(".view:not([hidden])")].map((view) => view.id);
const rows = () => [...document.querySelectorAll("#points tbody tr:not(.out)")].map((row) => row.dataset.point);
document.querySelector("circle[data-point='2']").dispatchEvent(new MouseEvent("click"));
found.push(lit(), shown(), document.querySelector("#point-2 .steps").innerText.includes("ratio=0.2"));
document.querySelector("tr[data-point='3']").click();
found.push(lit(), shown());
document.querySelector("tr[data-refused='4']").click();
found.push(shown());
[...document.querySelectorAll("#points th")].find((head) => head.textContent === "latency").click();
found.push(rows());
const slider = document.querySelector("[data-limit='latency']");
slider.value = 1; slider.dispatchEvent(new Event("input"));
found.push(rows(), document.querySelectorAll("circle.out").length, document.getElementById("within").textContent);
document.querySelector("circle[data-point='1']").dispatchEvent(new MouseEvent("mousemove", {clientX: 9, clientY: 9}));
found.push(document.getElementById("tip").textContent.split("\\n")[0]);
const box = document.createElement("pre");
box.id = "found"; box.textContent = JSON.stringify(found); document.body.replaceChildren(box);
}</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium (apt-get install chromium)")
def test_points_are_clicked_sorted_and_filtered(page, tmp_path):
    (tmp_path / "page.html").write_text(page.replace("</body>", STEPS))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
               "--dump-dom", (tmp_path / "page.html").as_uri()]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]))
    assert found == [
        [*["circle2"] * 3, "TR2"], ["point-2"], True,  # in every plot and in the table
        [*["circle3"] * 3, "TR3"], ["point-3"],
        ["point-4"],
        ["2", "3", "1", "0"],
        ["2", "3"], 2 * 3, "2 of 4 are within the limits.",
        "number 1: prune(ratio=0.1), quantize(config=<int8>)",
    ]  # fmt: skip
