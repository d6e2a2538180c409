"""A search on a small network: what it finds, what it keeps, and what it survives."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.search.any_batch import AnyBatch
from fxpress.search.phases import Phase, Strategy
from fxpress.search.quality import Accuracy
from fxpress.search.ranges import Choice, Range
from fxpress.search.store import Store
from fxpress.search.strategies import PRUNE, QUANTIZE
from torch import nn

pytest.importorskip("optuna", reason="needs optuna")

INPUTS = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
STRATEGY = Strategy("small", (PRUNE, QUANTIZE), ({}, {"prune.ratio": 0.5}, {"quantize.config": "int8"}))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 1024), nn.ReLU(), nn.Linear(1024, 4)).eval()


def search(model, folder, **changed):
    labels = model(INPUTS).argmax(1)
    given = {
        "calibration": [INPUTS[:8], INPUTS[8:16]],
        "evaluate": Accuracy([(INPUTS, labels)]),
        "strategy": STRATEGY,
        "max_trials": 3,
        "storage": folder,
    }
    return fxpress.optimize(model, (INPUTS[:8],), **(given | changed))


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    return search(model, tmp_path_factory.mktemp("search"))


def test_the_first_candidates_are_tried(found):
    assert [p.describe().split("(")[0] for p in found.tried] == ["original", "prune", "quantize"]
    assert all(p.is_whole for p in found.tried)
    assert found.original.quality.value == 1
    pruned, quantized = found.tried[1:]
    assert pruned.footprint.macs == found.original.footprint.macs / 2
    assert quantized.footprint.size < found.original.footprint.size


def test_points_compute_what_was_judged(found, model):
    best = found.load(found.original)
    assert torch.allclose(best(INPUTS[:8]), model(INPUTS[:8]), atol=1e-5)


def test_a_search_goes_on_where_it_was(model, tmp_path):
    def killed(stage):
        if "trial 3" in stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(model, tmp_path, progress=killed)
    calls = []
    evaluate = Accuracy([(INPUTS, model(INPUTS).argmax(1))])
    found = search(model, tmp_path, evaluate=lambda f: calls.append(1) or evaluate(f))
    assert [p.describe().split("(")[0] for p in found.tried] == ["original", "prune", "quantize"]
    assert len(calls) == 2  # the original and what was killed: two trials were known


def test_one_search_at_a_time(model, tmp_path):
    with Store(tmp_path).locked(), pytest.raises(InvalidInput, match="must be of one search at a time"):
        search(model, tmp_path)


def test_candidates_over_the_limits_are_not_made_and_said_so(model, tmp_path):
    def train(program, options, task):
        raise AssertionError("nothing over the limits is trained")

    trained = Phase("train", train, {"rate": Range(0.1, 0.2)}, keeps_structure=True)
    strategy = Strategy("train", (trained,), ({},))
    found = search(model, tmp_path, strategy=strategy, limits={"size": 10}, max_trials=1)
    (refused,) = found.tried
    assert "over the limit 10 B" in refused.refused
    assert refused.promised.size > 10
    assert [p.number for p in found.points] == [0]


def test_a_phase_that_fails_is_a_refused_point(model, tmp_path):
    def fail(program, options, task):
        raise InvalidInput("model must be of another kind")

    strategy = Strategy("bad", (Phase("bad", fail, {"kind": Choice(("a", "b"))}),))
    found = search(model, tmp_path, strategy=strategy, max_trials=1)
    assert found.tried[0].refused == "InvalidInput: model must be of another kind"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"evaluate": lambda f: float("nan")}, "finite number"),
        ({"evaluate": None, "calibration": None}, "evaluate= must be given, or calibration="),
        ({"objectives": ("quality", "beauty")}, "objectives must be among"),
        ({"limits": {"ram": 100}}, "limits must be on objectives"),
        ({"limits": {"size": -1}}, "limit of size must be positive"),
        ({"budget_seconds": 0}, "budget_seconds must be positive"),
        ({"strategy": "grow"}, "strategy must be a Strategy or one of"),
    ],
    ids=["nan", "no quality", "objective", "limit", "negative limit", "budget", "strategy"],
)
def test_bad_input(model, tmp_path, changed, message):
    with pytest.raises(InvalidInput, match=message):
        search(model, tmp_path, **changed)


def test_phases_without_their_data_are_left_out_and_noted(model, tmp_path):
    trained = Phase("train", lambda program, options, task: program, {"rate": Range(0.1, 0.2)}, needs="train")
    found = search(model, tmp_path, strategy=Strategy("two", (trained, PRUNE)), max_trials=1)
    assert found.notes == ("train: left out, needs train=",)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_artifacts_take_any_batch(model, count):
    artifact = fxpress.compile(model, (INPUTS[:4],))
    assert torch.allclose(AnyBatch(artifact)(INPUTS[:count]), model(INPUTS[:count]), atol=1e-5)
    with pytest.raises(InvalidInput, match="at least one item"):
        AnyBatch(artifact)(INPUTS[:0])
