import json
from pathlib import Path
from typing import Any

import compare
import machine
import plot
import pytest
import results


def entry(median: float, wrong: str | None = None, spread: float = 0.01) -> dict[str, Any]:
    return {
        "median": median,
        "p10": median,
        "p90": median,
        "minimum": median,
        "rounds": [median],
        "spread": spread,
        "calls": 1,
        "errors": [0.0],
        "wrong": wrong,
        "prepare": 1.0,
    }


def example(**peers: dict[str, Any]) -> results.Results:
    model = {
        "suite": "tiny",
        "reference_errors": [1e-7],
        "rounds": 1,
        "rejected": 0,
        "noisy": [],
        "peers": peers,
    }
    return {
        "format": results.FORMAT,
        "date": "2025-01-01T00:00:00+00:00",
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": {"dtype": "f32", "threads": 2, "rounds": 1, "peers": list(peers)},
        "models": {"mlp": model},
    }


def test_written_results_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    found = example(fxpress=entry(1e-3), ort=entry(2e-3), iree={"failed": "not installed"})
    results.write(found, path)
    assert results.read(path) == found
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


def test_invalid_results_do_not_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(example(ort=entry(1.0)), path)
    before = path.read_text()
    broken = example(ort={"median": 1.0})
    with pytest.raises(results.InvalidResults, match=r"^mlp, ort must have the fields calls, errors, minimum, "):
        results.write(broken, path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"must be a JSON file: "),
        ("[]", r"^results must be a JSON object, not list$"),
        ("{}", r"^results must have the fields date, format, machine, models, settings, versions$"),
        (json.dumps(example() | {"format": 99}), r"^results must be of format 1, not 99: measure again$"),
    ],
)
def test_what_is_not_a_results_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(results.InvalidResults, match=message):
        results.read(path)


def test_ratio_is_to_the_best_peer_that_is_right() -> None:
    found = example(
        fxpress=entry(2.0), ort=entry(4.0), openvino=entry(1.0, wrong="off"), iree={"failed": "not installed"}
    )
    model = found["models"]["mlp"]
    assert results.best_peer(model, "fxpress") == ("ort", 4.0)
    assert results.ratio(model, "fxpress") == 0.5


@pytest.mark.parametrize(
    "peers",
    [{"ort": entry(1.0)}, {"fxpress": entry(1.0)}, {"fxpress": entry(1.0, wrong="off"), "ort": entry(1.0)}],
)
def test_no_ratio_without_two_right_sides(peers: dict[str, Any]) -> None:
    assert results.ratio(example(**peers)["models"]["mlp"], "fxpress") is None


@pytest.mark.parametrize(("new", "real"), [(1.0, False), (0.98, False), (0.9, True), (1.2, True)])
def test_only_changes_beyond_the_spread_are_real(new: float, real: bool) -> None:
    [change] = compare.compare(example(ort=entry(1.0)), example(ort=entry(new)))
    assert change.speedup == pytest.approx(1 / new)
    assert change.real == real


def test_a_noisy_change_is_not_real() -> None:
    [change] = compare.compare(example(ort=entry(1.0, spread=0.3)), example(ort=entry(0.8)))
    assert not change.real


def test_only_what_ran_in_both_is_compared() -> None:
    old = example(ort=entry(1.0), iree={"failed": "not installed"}, eager=entry(1.0, wrong="off"))
    new = example(ort=entry(1.0), iree=entry(1.0), eager=entry(1.0), openvino=entry(1.0))
    assert [change.peer for change in compare.compare(old, new)] == ["ort"]


def test_differences_of_the_surroundings_are_listed() -> None:
    old, new = example(), example()
    new["versions"] = old["versions"] | {"torch": "0.0"}
    assert compare.differences(old, old) == []
    assert compare.differences(old, new) == [f"versions torch: {old['versions']['torch']} -> 0.0"]


def test_bars_are_relative_to_the_best_peer() -> None:
    found = example(fxpress=entry(1.0), ort=entry(2.0), iree={"failed": "not installed"})
    assert plot.relative(found) == {"fxpress": [0.5], "ort": [1.0], "iree": [None]}


def test_html_is_self_contained(tmp_path: Path) -> None:
    path = tmp_path / "results.html"
    plot._html(example(fxpress=entry(1.0), ort=entry(2.0)), path)
    page = path.read_text()
    assert "<script src=" not in page
    assert "fxpress" in page


def test_machine_describes_this_one() -> None:
    found = machine.machine()
    assert found["cores"] >= 1
    assert found["memory"] > 0
    assert "torch" in machine.versions()


def test_our_float32_is_no_peer_but_what_quantising_is_measured_by() -> None:
    model = example(**{"fxpress": entry(2.0), results.FLOAT: entry(1.0), "ort": entry(4.0)})["models"]["mlp"]
    assert results.best_peer(model, "fxpress") == ("ort", 4.0)
    assert results.gain(model, "fxpress") == 2.0


@pytest.mark.parametrize("peers", [{"fxpress": entry(1.0)}, {"fxpress": entry(1.0), results.FLOAT: {"failed": "no"}}])
def test_no_gain_without_both(peers: dict[str, Any]) -> None:
    assert results.gain(example(**peers)["models"]["mlp"], "fxpress") is None
