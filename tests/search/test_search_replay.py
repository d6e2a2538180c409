"""A point's recipe makes the same file again, in another process; what is not as it was is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.kernel_times import KernelTimes, KernelUse, written_down
from fxpress.search import replay
from fxpress.search.frontier import Point
from fxpress.search.quality import Accuracy
from fxpress.search.strategies import STRATEGIES
from fxpress.target import Target

pytest.importorskip("optuna", reason="needs optuna")
HERE = Path(__file__).parent
CANDIDATE = {
    "prune.ratio": 0.5,
    "improve.epochs": 1,
    "improve.augment": "mixup",
    "quantize.config": "int8",
    "tune.epochs": 1,
}


@pytest.fixture(scope="module")
def searched():
    import importlib.util

    spec = importlib.util.spec_from_file_location("replayed_search", HERE / "replayed_search.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(searched, tmp_path_factory):
    x = searched.inputs()
    found = fxpress.optimize(
        searched.model(), (x[:8],), **searched.given(x), evaluate=Accuracy([(x, x.sum(1).gt(0).long())]),
        strategy=replace(STRATEGIES["shrink-and-improve"], first=(CANDIDATE,)),
        max_trials=1, storage=tmp_path_factory.mktemp("search"), objectives=("quality", "size"),
    )  # fmt: skip
    assert [point.refused for point in found.tried] == [""]
    saved = tmp_path_factory.mktemp("found")
    found.save(saved)
    return saved


@pytest.fixture(scope="module")
def point(folder):
    return fxpress.search.frontier.Frontier.load_from(folder).tried[0]


def test_a_recipe_makes_the_same_file_in_another_process(folder, point):
    assert [name for name, _ in point.steps] == ["prune", "improve", "quantize", "tune"]
    assert point.recipe["measured"], "integers were chosen by measured times"
    command = [sys.executable, HERE / "replayed_search.py", folder, str(point.number)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1]) == point.recipe["members"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"calibration": None}, "replay must be given what the recipe rests on, but other are: calibration"),
        ({"train": [(torch.zeros(8, 16), torch.zeros(8).long())]}, "replay must be given .*, but other are: train"),
        ({"loss": torch.nn.functional.cross_entropy}, "replay must be given .*, but other are: loss"),
    ],
    ids=["calibration", "train", "loss"],
)
def test_what_is_not_as_it_was_is_named(searched, point, changed, message):
    x = searched.inputs()
    with pytest.raises(InvalidInput, match=f"^{message}"):
        replay(point, searched.model(), (x[:8],), **(searched.given(x) | changed))


def test_members_that_differ_are_named(searched, point):
    x = searched.inputs()
    recipe = {**point.recipe, "candidate": {}, "members": {**point.recipe["members"], "constants.bin": ["0"]}}
    with pytest.raises(InvalidInput, match=r"^recipe must be replayed on the machine .* members .*: constants.bin"):
        replay(recipe, searched.model(), (x[:8],), **searched.given(x))


def test_what_is_no_recipe_is_refused(searched):
    with pytest.raises(InvalidInput, match=r"^point must have a recipe, but number 5 was refused: size would be"):
        replay(Point(5, {}, [], refused="size would be over the limit"), searched.model())
    with pytest.raises(InvalidInput, match=r"^recipe must be a Point.recipe of format 1, not {}$"):
        replay({}, searched.model())


class OneKernel:
    """A lowered Program of one kernel, which cannot be measured."""

    def kernel_uses(self):
        return [KernelUse("node", "key", "kernel", 1, 1, False)]

    def timing_code(self, keys):
        raise AssertionError("what is written down is not measured")


def test_times_that_are_written_down_are_not_measured():
    times = {KernelTimes._hash("key"): 0.25}
    with written_down(times):
        ((_, seconds),) = KernelTimes(Target.parse("cpu")).of(OneKernel())[0]
    assert seconds == 0.25
    with written_down({}), pytest.raises(AssertionError, match="not measured"):
        KernelTimes(Target.parse("cpu")).of(OneKernel())
