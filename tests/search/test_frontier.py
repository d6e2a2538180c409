"""Points that nothing beats, the best within limits, the volume they dominate, files."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from fxpress.errors import InvalidInput
from fxpress.search.footprint import Footprint
from fxpress.search.frontier import Frontier, Point, volume
from fxpress.search.objectives import objectives_of
from fxpress.search.quality import Quality, Scores
from hypothesis import given
from hypothesis import strategies as st

WANTED = objectives_of(("quality", "latency", "size"))


def point(number, quality, latency, size):
    footprint = Footprint(size, latency, latency, 0.0, 10, 10, 1 / latency)
    steps = [("prune", {"ratio": number / 10})] if number else []
    return Point(number, dict(steps), steps, None, Quality(quality, quality, quality), footprint, footprint)


ORIGINAL = point(0, 0.9, 8.0, 100)
TRIED = [
    point(1, 0.89, 4.0, 50),
    point(2, 0.80, 2.0, 20),
    point(3, 0.79, 3.0, 30),  # beaten by 2
    point(4, 0.90, 8.0, 101),  # beaten by the original
    Point(5, {}, [], refused="size would be over the limit"),
]
FRONTIER = Frontier(ORIGINAL, TRIED, WANTED)

numbers = st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=1, max_size=7)


def test_points_are_those_that_none_beats():
    assert [p.number for p in FRONTIER] == [0, 1, 2]


@given(numbers)
def test_points_are_the_pareto_set(costs):
    tried = [point(n, -q, x, y) for n, (q, x, y) in enumerate(costs, 1)]
    frontier = Frontier(point(0, -7, 7, 7), tried, WANTED)
    found = {(-p.quality.value, p.footprint.latency, p.footprint.size) for p in frontier}
    expected = {a for a in costs if not any(all(u <= v for u, v in zip(b, a, strict=True)) and b != a for b in costs)}
    assert found == expected


@given(numbers)
def test_volume_counts_the_cells_of_boxes(corners):
    cells = itertools.product(range(6), repeat=3)
    covered = sum(any(all(c < h for c, h in zip(cell, corner, strict=True)) for corner in corners) for cell in cells)
    assert volume(corners) == pytest.approx(covered)


def test_hypervolume_grows_with_points():
    fewer = Frontier(ORIGINAL, TRIED[:1], WANTED)
    assert 0 < fewer.hypervolume() < FRONTIER.hypervolume() < 1
    assert Frontier(ORIGINAL, [], WANTED).hypervolume() == 0


def test_what_has_no_end_is_scaled_by_the_best_of_all():
    wanted = objectives_of(("quality", "throughput"))
    frontier = Frontier(point(0, 0.9, 1 / 100, 100), [point(1, 0.8, 1 / 400, 100)], wanted)
    assert frontier.hypervolume({"throughput": 0}) == pytest.approx(0.9 * 0.25 + 0.8 * 0.75)
    assert frontier.hypervolume() == pytest.approx(0.8)  # all that is above the original's


def noisy(number, hits, latency):
    rows = np.zeros(200)
    rows[:hits] = 1
    return replace(point(number, 0.0, latency, 100), quality=Quality.of(Scores(rows)))


WITHIN_NOISE = Frontier(noisy(0, 180, 8.0), [noisy(1, 179, 4.0), noisy(2, 120, 2.0)], WANTED)


def test_a_point_is_better_only_outside_the_noise():
    original, near, far = WITHIN_NOISE.points
    assert WITHIN_NOISE.equal_to(original) is near
    assert WITHIN_NOISE.equal_to(near) is None
    assert WITHIN_NOISE.equal_to(far) is None
    assert WITHIN_NOISE.best() is near
    assert WITHIN_NOISE.best(max_quality_drop=0.006) is near
    assert WITHIN_NOISE.best(max_quality_drop=0.006, certain=True) is original
    assert WITHIN_NOISE.best(max_quality_drop=0.02, certain=True) is near
    assert "   0 is no better than 1, which costs less, outside the noise" in WITHIN_NOISE.text().splitlines()


def test_the_report_says_what_is_not_told_apart(tmp_path):
    WITHIN_NOISE.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("no better than number 1, which costs less, outside the noise") == 1


def test_comparisons_are_the_same_after_saving(tmp_path):
    WITHIN_NOISE.save(tmp_path)
    again = Frontier.load_from(tmp_path)
    for before, after in zip(WITHIN_NOISE.points, again.points, strict=True):
        assert after.quality.minus(again.original.quality) == before.quality.minus(WITHIN_NOISE.original.quality)
    assert again.text() == WITHIN_NOISE.text()


@pytest.mark.parametrize(
    ("limits", "number"),
    [
        ({}, 0),
        ({"max_quality_drop": 0.02}, 1),
        ({"max_quality_drop": 0.2}, 2),
        ({"max_quality_drop": 0.0}, 0),
        ({"max_latency": 4.0}, 1),
        ({"max_size": 49}, 2),
        ({"max_size": 60, "max_latency": 5.0, "max_quality_drop": 0.5}, 2),
    ],
)
def test_best(limits, number):
    assert FRONTIER.best(**limits).number == number


def test_limits_that_nothing_is_within_name_the_nearest():
    message = r"the nearest is number 2 \(prune\(ratio=0.2\)\): quality 0.8, latency 2.00 s, size 20 B"
    with pytest.raises(InvalidInput, match=message):
        FRONTIER.best(max_size=10)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_latency": "1 ms"}, "max_latency must be positive, a number in seconds, .*, not '1 ms'"),
        ({"max_size": 0}, "max_size must be positive, .*, not 0"),
        ({"max_quality_drop": "1%"}, "max_quality_drop must be a number in units of quality, not '1%'"),
        ({"max_ram": 1e6}, "max_ram must be None where nothing tells the ram of models, not 1000000.0"),
    ],
)
def test_limits_that_are_none(limits, message):
    original = replace(ORIGINAL, footprint=replace(ORIGINAL.footprint, ram=None))
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        replace(FRONTIER, original=original).best(**limits)


def test_a_saved_frontier_is_the_same(tmp_path):
    FRONTIER.save(tmp_path)
    again = Frontier.load_from(tmp_path)
    assert again.text() == FRONTIER.text()
    assert [p.to_json() for p in again.tried] == [p.to_json() for p in FRONTIER.tried]


def test_what_was_saved_stays_when_saving_fails(tmp_path):
    artifact = tmp_path / "made" / "original.fxp"
    artifact.parent.mkdir()
    artifact.write_bytes(b"zip")
    whole = replace(FRONTIER, original=replace(ORIGINAL, artifact=artifact))
    whole.save(tmp_path / "kept")
    assert (tmp_path / "kept" / "original.fxp").read_bytes() == b"zip"
    before = (tmp_path / "kept" / "frontier.json").read_text()
    lost = replace(whole, tried=[replace(TRIED[0], artifact=tmp_path / "made" / "lost.fxp")])
    with pytest.raises(InvalidInput, match=r"^artifact must be a file that exists, not '.*lost.fxp'; was its storage"):
        lost.save(tmp_path / "kept")
    assert (tmp_path / "kept" / "frontier.json").read_text() == before
    Frontier.load_from(tmp_path / "kept").save(tmp_path / "made" / ".." / "kept")  # onto itself
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["frontier.json", "original.fxp"]
    with pytest.raises(InvalidInput, match=r"^folder must be one that can be written, not '.*original.fxp'"):
        whole.save(artifact)


def test_a_folder_without_one_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"^folder must hold a saved Frontier"):
        Frontier.load_from(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("quality",), "must be 'quality' and at least one"),
        (("latency", "size"), "must be 'quality' and at least one"),
        (("quality", "speed"), r"must be among .* not \['speed'\]"),
        ("quality", "must be names in a list"),
        (5, "must be names in a list, not 5"),
        ([["quality"]], "must be names in a list"),
    ],
)
def test_objectives_that_are_none(names, message):
    with pytest.raises(InvalidInput, match=message):
        objectives_of(names)


def test_a_refused_point_has_no_artifact():
    with pytest.raises(InvalidInput, match="number 5 was refused: size would be over"):
        FRONTIER.load(TRIED[-1])


def test_no_point_within_the_limits_is_said_with_the_nearest():
    assert FRONTIER.why_none_within({}) == ""
    assert FRONTIER.why_none_within({"size": 20, "latency": 2.0}) == ""
    assert FRONTIER.why_none_within({"size": 20, "latency": 1.0}) == (
        "no model is within the limits latency 1.00 s, size 20 B; the nearest is number 2 (prune(ratio=0.2)) "
        "with latency 2.00 s, size 20 B"
    )
