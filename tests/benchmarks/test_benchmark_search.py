"""The scripts that compare searches with the survey's grid, in tiny."""

import json
import math
from itertools import pairwise
from pathlib import Path

import cluttered_digits
import pytest
import search_frontier
import search_strategies
import survey_grid
import torch
from cluttered_training import Ledger, Shuffled, seconds_of
from resnet10 import ResNet10


def test_parts_have_other_digits_and_seeds_give_equal_images() -> None:
    images, labels = cluttered_digits.images("validation", variants=2)
    assert images.shape == (2000, 1, 32, 32)
    assert torch.equal(labels[:1000], labels[1000:])
    assert not torch.equal(images[:1000], images[1000:])
    assert torch.equal(images, cluttered_digits.images("validation", variants=2)[0])
    assert not torch.equal(images, cluttered_digits.images("validation", variants=2, seed=1)[0])
    spans = sorted((part.start, part.stop) for part in cluttered_digits.PARTS.values())
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_digits_stay_where_nothing_is_in_the_way() -> None:
    easy = cluttered_digits.Difficulty(degrees=0.0, smallest=1.0, pieces=0, noise=0.0)
    images, _ = cluttered_digits.images("test", difficulty=easy)
    plain = cluttered_digits.digits()[0][cluttered_digits.PARTS["test"]]
    ink = ((images * 0.4 + 0.2).sum((1, 2, 3)) / plain.sum((1, 2, 3))).mean()
    assert ink == pytest.approx(1.0, abs=0.05)  # as much of it, only elsewhere


def test_resnet10_has_the_channels_of_its_width_and_its_seed_decides() -> None:
    module = ResNet10(0.25, seed=3)
    assert module.classifier.in_features == 64
    again = ResNet10(0.25, seed=3).state_dict()
    assert all(torch.equal(x, again[name]) for name, x in module.state_dict().items())
    assert module(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_shuffled_gives_whole_batches_and_its_clock_adds_up(tmp_path: Path) -> None:
    batches = Shuffled(torch.arange(130.0), torch.arange(130), tmp_path / "clock")
    assert [len(x) for x, _ in batches] == [64, 64] == [64] * len(batches)
    list(batches)
    assert len((tmp_path / "clock").read_text().split()) == 2
    assert batches.seconds() == seconds_of(tmp_path / "clock") > 0


def test_ledger_makes_an_entry_once_and_survives(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    ledger = Ledger(tmp_path / "ledger.json")
    for _ in range(2):
        assert ledger.entry("a", make) == 1
    assert Ledger(tmp_path / "ledger.json").entry("a", lambda: 2) == 1


def test_corners_in_both_scales() -> None:
    models = [{"accuracy": 0.75, "size": 10.0}, {"accuracy": 0.5, "size": 1.0}, {"accuracy": 0.9, "size": 100.0}]
    worst, best = {"accuracy": 0.5, "size": 100.0}, {"size": 1.0}
    assert search_frontier.corners(models, "size", worst, best, "linear") == [(0.5, 0.9)]
    ((gained, saved),) = search_frontier.corners(models, "size", worst, best, "log")
    assert (gained, saved) == (0.5, pytest.approx(0.5))


def test_comparing_equal_sides_gains_nothing_and_better_models_gain() -> None:
    grid = [
        {"name": "wide", "accuracy": 0.9, "size": 100.0, "latency": 1.0},
        {"name": "thin", "accuracy": 0.7, "size": 10.0, "latency": 0.1},
        {"name": "thinner", "accuracy": 0.6, "size": 5.0, "latency": 0.05},
    ]
    same = search_frontier.compare({"grid": grid, "ours": grid}, grid[0])
    better = [model | {"accuracy": model["accuracy"] + 0.05, "size": model["size"] / 2} for model in grid]
    gains = search_frontier.compare({"grid": grid, "ours": better}, grid[0])
    for box, costs in gains.items():
        for cost, found in costs.items():
            assert same[box][cost]["gain in percent"] == pytest.approx(0)
            assert 0 < found["grid"] < found["ours"] <= 1
            assert found["gain in percent"] == pytest.approx(100 * (found["ours"] / found["grid"] - 1))


def test_interval_is_students() -> None:
    found = search_strategies.interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["interval"][1] - 2.0 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert search_strategies.interval([1.0])["interval"] is None


def test_candidates_are_of_their_strategies() -> None:
    for case in search_strategies.CASES.values():
        complete = case.strategy.complete(case.candidate)
        assert case.candidate.items() <= complete.items()
    chosen = search_frontier.strategy(search_frontier.Settings())
    assert all(chosen.complete(candidate) for candidate in chosen.first)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_grid_search_and_strategy_in_tiny(tmp_path: Path) -> None:
    """Everything from training to the comparison, and again from what was kept."""
    settings = survey_grid.Settings(widths=(0.06,), epochs=1, count=128)
    grid = survey_grid.Grid(settings, tmp_path / "grid")
    models = grid.run(progress=lambda line: None)
    assert len(models) == 2 * 2  # a single width has no teacher
    assert survey_grid.Grid(settings, tmp_path / "grid").run(progress=lambda line: None) == models
    tiny = search_frontier.Settings(learn_epochs=1, improve_epochs=1, ratios=(0.5,), most_trials=2)
    search = search_frontier.Search(tiny, grid, tmp_path / "search")
    frontier, spent = search.run(budget=1e6)
    assert 0 < spent < 1e6
    assert 1 <= len(frontier.tried) <= 2
    case = search_strategies.Case(
        0.03, search_strategies.STRATEGIES["shrink-and-improve"], {"improve.epochs": 1, "quantize.config": "int8"}
    )
    seed = search_strategies.Seed(1, search_strategies.Settings(epochs=1, count=128), tmp_path / "seed")
    entry = json.loads(json.dumps(seed.run("shrink", case)))
    footprint = {"size": 2.0, "latency": 3.0}
    footprints = {entry[side]["artifact"]: footprint for side in ("before", "after")}
    assert search_strategies.summary([entry], footprints)["times faster"]["mean"] == 1.0
