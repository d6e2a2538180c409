"""A search on a small network: what it finds, what it keeps, and what it survives."""

from __future__ import annotations

import re
from dataclasses import replace

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.search.any_batch import AnyBatch
from fxpress.search.footprint import Footprint
from fxpress.search.frontier import Point
from fxpress.search.objectives import objectives_of
from fxpress.search.phases import Phase, Strategy, Task
from fxpress.search.quality import Accuracy, Quality
from fxpress.search.ranges import Choice, Range
from fxpress.search.store import Store
from fxpress.search.strategies import IMPROVE, PRUNE, QUANTIZE, STRATEGIES
from fxpress.search.trials import Trials
from fxpress.target import Target
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


class Counting(Accuracy):
    """Counts how often it is asked."""

    calls = 0

    def __call__(self, model):
        Counting.calls += 1
        return super().__call__(model)


def test_a_search_goes_on_where_it_was(model, tmp_path):
    def killed(stage):
        if "trial 3" in stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(model, tmp_path, progress=killed, evaluate=Counting([(INPUTS, model(INPUTS).argmax(1))]))
    Counting.calls = 0
    judged = Counting([(INPUTS, model(INPUTS).argmax(1))])
    found = search(model, tmp_path, evaluate=judged)
    assert [p.describe().split("(")[0] for p in found.tried] == ["original", "prune", "quantize"]
    assert Counting.calls == 3  # the original, twice, and what was killed: two trials were known


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
    (note,) = found.notes
    assert re.match(r"no model is within the limits size 10 B; the nearest is number \d \(.*\) with size \d", note)
    assert refused.promised.size > 10
    assert [p.number for p in found.points] == [0]


def test_a_phase_that_fails_is_a_refused_point(model, tmp_path):
    def fail(program, options, task):
        raise InvalidInput("model must be of another kind")

    strategy = Strategy("bad", (Phase("bad", fail, {"kind": Choice(("a", "b"))}),))
    found = search(model, tmp_path, strategy=strategy, max_trials=1)
    assert found.tried[0].refused == "InvalidInput: model must be of another kind"


BAD_INPUT = {
    "nan": ({"evaluate": lambda f: float("nan")}, "evaluate must return a finite number, not nan"),
    "random": (
        {"evaluate": lambda f: float(torch.rand(()))},
        r"evaluate must say the same of the same model, not 0\.\d+ and",
    ),
    "no batches": ({"train": []}, "batches must yield at least one batch an epoch, not none"),
    "iterator": ({"train": iter([])}, "batches must be readable once an epoch"),
    "no quality": ({"evaluate": None, "calibration": None}, "evaluate= must be given, or calibration="),
    "objective": ({"objectives": ("quality", "beauty")}, "objectives must be among"),
    "limit": ({"limits": {"ram": 100}}, "limits must be on objectives"),
    "negative limit": ({"limits": {"size": -1}}, "limit of size must be positive"),
    "limit in words": ({"limits": {"size": "2 MB"}}, "limit of size must be positive, a number in .*, not '2 MB'"),
    "limits": ({"limits": ["size"]}, r"limits must be numbers by objective, .*, not \['size'\]"),
    "budget": ({"budget_seconds": 0}, "budget_seconds must be positive, not 0"),
    "budget in words": ({"budget_seconds": "1 h"}, "budget_seconds must be positive, not '1 h'"),
    "trials": ({"max_trials": 1.5}, "max_trials must be an integer of at least 1 or None, not 1.5"),
    "seed": ({"seed": -1}, "seed must be an integer from 0 to"),
    "threads": ({"num_threads": 0}, "num_threads must be a positive integer or None, not 0"),
    "storage": ({"storage": 5}, "storage must be the path of a folder or None, not 5"),
    "learning": ({"learning": {"epochs": 2}}, "learning must be a fxpress.learn.TrainConfig or None"),
    "evaluate": ({"evaluate": "accuracy"}, "evaluate must be a function or None, not 'accuracy'"),
    "loss": ({"loss": "mse"}, "loss must be a function or None, not 'mse'"),
    "target": ({"target": 5}, "target must look like 'cpu' or .*, not 5"),
    "strategy": ({"strategy": "grow"}, "strategy must be a Strategy or one of"),
    "calibration": ({"calibration": INPUTS[:8]}, "calibration must be an iterable of inputs, not Tensor"),
    "no calibration": ({"calibration": []}, "calibration must yield at least one item, not none"),
    "shape": ({"calibration": [INPUTS[:7]]}, r"calibration item 0: input must be float32\[8, 16\], not"),
}


@pytest.mark.parametrize(("changed", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(model, tmp_path, changed, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        search(model, tmp_path, **changed)


def test_what_evaluate_raises_later_ends_the_search_and_nothing_is_lost(model, tmp_path):
    class Failing(Accuracy):
        is_broken = True

        def __call__(self, f):
            if Failing.is_broken and type(f).__name__ == "AnyBatch" and next(tmp_path.glob("points/*"), None):
                raise ZeroDivisionError("of the second trial")
            return super().__call__(f)

    judged = Failing([(INPUTS, model(INPUTS).argmax(1))])
    with pytest.raises(ZeroDivisionError, match="second trial"):
        search(model, tmp_path, evaluate=judged)
    Failing.is_broken = False
    found = search(model, tmp_path, evaluate=judged, max_trials=2)
    assert all(point.is_whole for point in found.tried)


def test_a_model_that_cannot_be_judged_is_a_refused_point(model, tmp_path):
    class OnlyWide(Accuracy):
        """NaN for all but the original."""

        def __call__(self, f):
            scores = super().__call__(f)
            return scores if scores.rows.all() else float("nan")

    judged = OnlyWide([(INPUTS, model(INPUTS).argmax(1))])
    strategy = replace(STRATEGY, first=({"prune.ratio": 0.95},))
    (point,) = search(model, tmp_path, evaluate=judged, strategy=strategy, max_trials=1).tried
    assert point.refused.startswith("InvalidInput: evaluate must return a finite number, not nan")


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


def judged(number, quality, size, *, trained):
    footprint = Footprint(size, 1.0, 1.0, 0.0, 10, 10, 1.0)
    candidate = {"train.rate": 0.1 if trained else 0.0}
    return Point(number, candidate, [], None, Quality(quality, quality, quality), footprint, footprint)


@pytest.mark.parametrize(
    ("others", "refused"),
    [
        ([(0.9, 50, False), (0.9, 200, True)], True),  # the dearer one was no better
        ([(0.9, 50, False), (0.95, 200, True)], False),
        ([(0.9, 50, False), (0.9, 200, False)], False),  # what is not trained says nothing
        ([(0.9, 150, False), (0.9, 200, True)], False),  # nothing cheaper is known
        ([], False),
    ],
)
def test_what_lies_between_points_that_are_equally_good_is_not_trained(model, tmp_path, others, refused):
    trained = Phase("train", lambda *_: None, {"rate": Range(0.0, 1.0)}, off={"rate": 0.0}, keeps_structure=True)
    task = Task(fxpress.capture(model, (INPUTS[:8],)), Target.parse("cpu"), lambda f: 1.0)
    trials = Trials(Strategy("train", (trained,)), task, Store(tmp_path), objectives_of(("quality", "size")), {})
    points = [judged(n, quality, size, trained=by) for n, (quality, size, by) in enumerate(others, 1)]
    assert bool(trials.hopeless(judged(9, 0.0, 100, trained=True), points)) == refused
    assert not trials.hopeless(judged(9, 0.0, 100, trained=False), points)


@pytest.mark.parametrize("strategy", ["shrink-and-improve", "grow-improve-and-shrink"])
def test_strategies_train(model, tmp_path, strategy):
    labels = model(INPUTS).argmax(1)
    chosen = replace(STRATEGIES[strategy], first=({"improve.epochs": 2, "grow.width": 1.5, "learn.epochs": 1},))
    if strategy == "shrink-and-improve":
        chosen = replace(chosen, first=({"improve.epochs": 2, "prune.ratio": 0.5},))
    batches = [(INPUTS[:8], labels[:8]), (INPUTS[8:16], labels[8:16])]
    found = search(model, tmp_path, strategy=chosen, train=batches, max_trials=1)
    (point,) = found.tried
    assert point.is_whole, point.refused
    assert [row["epoch"] for row in point.curve] == ([1, 2] if strategy == "shrink-and-improve" else [1, 1, 2])
    # what was promised is what was measured, but for noise: the structure was known before
    assert point.promised.macs == point.footprint.macs
    assert abs(point.promised.size - point.footprint.size) < 2048


def test_a_function_of_the_user_trains(model, tmp_path):
    def double(module):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(2)
        return module

    chosen = Strategy("user", (IMPROVE,), ({"improve.epochs": 1},))
    found = search(model, tmp_path, strategy=chosen, train=double, max_trials=1, calibration=None)
    artifact = found.load(found.tried[0])
    assert not torch.allclose(artifact(INPUTS[:8]), model(INPUTS[:8]), atol=1e-2)
